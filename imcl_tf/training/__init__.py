"""A run: training, evaluation, and what it leaves in its workdir."""
