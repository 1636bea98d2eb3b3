"""Exact sparse forward and backward products: what fired, its values, its reconstruction, and gradients nowhere else."""
