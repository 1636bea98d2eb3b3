"""Batches of activations from a store: a pure order, and a loader that keeps it."""
