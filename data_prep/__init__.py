"""Programs: raw downloads -> TFRecords and label graphs."""
