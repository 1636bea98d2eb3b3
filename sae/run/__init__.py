"""A run: its directory, its records, and one object to read all of it."""
