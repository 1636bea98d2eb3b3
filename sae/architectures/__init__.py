"""The dictionaries: one file per published architecture, one contract for all, one registry."""
