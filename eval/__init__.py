"""Programs: finished runs -> tables and figures."""
