"""Interpretation of features: examples, an explanation that predicts activations, and a score on text the explanation never saw."""
