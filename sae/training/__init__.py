"""Training: one pass over a store trains any number of dictionaries, over one process or many, to be gone on with after any interruption."""
