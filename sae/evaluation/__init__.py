"""Evaluation of a dictionary on held-out text: reconstruction, sparsity, and the loss of the model's predictions."""
