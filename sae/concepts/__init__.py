"""Concept detection: the label of a text predicted by single features, neurons or sparse probes."""
