"""Connection to a Ray cluster, job submission and capacity."""
