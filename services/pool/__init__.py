"""The Ray executor: a pool of actors that does the tasks of a stage."""
