"""Explanations in words: what a language model is asked about a feature, how its replies are read, and what they score."""
