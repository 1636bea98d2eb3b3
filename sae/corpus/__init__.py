"""Text sources to packed sequences of tokens."""
