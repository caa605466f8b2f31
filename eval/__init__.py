"""Programs of the checkout: finished runs -> tables and figures."""
