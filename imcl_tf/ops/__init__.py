"""Tensors in, tensors out: the equations of the paper, without Keras."""
