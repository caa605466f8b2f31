"""Programs of the checkout: raw downloads -> TFRecords and label graphs."""
