"""The text that features are explained and scored on, and running the subject model over it."""
