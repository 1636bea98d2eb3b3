"""Workers and process groups of a training run."""
