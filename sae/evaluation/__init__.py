"""How good a dictionary is, measured on held-out text: reconstruction, sparsity, and what the model's predictions lose by it."""
