"""Data sets: records, their builders, and minibatches from them."""
