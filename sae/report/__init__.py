"""The report of a run: one HTML file that needs nothing else, made from what the stages left in the run directory."""
