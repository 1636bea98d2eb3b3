"""Firings of features over a text, and the examples chosen from them."""
