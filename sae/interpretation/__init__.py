"""What fires a feature: examples, an explanation that predicts activations, and a score on text the explanation never saw."""
