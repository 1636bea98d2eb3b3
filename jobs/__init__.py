"""Entry points: the command line and `ray job submit`."""
