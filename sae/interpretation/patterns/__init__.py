"""Token graphs: explanations that need no language model."""
