"""Training: here in this process, or by Ray Train on a cluster."""
