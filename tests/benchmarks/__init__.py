"""What is as fast as it should be: `make bench`, or `make bench ONLY=name`. Ratios of one run count, not seconds of one machine."""
