"""What the project costs, against bars: `python -m eval.benchmark`."""
