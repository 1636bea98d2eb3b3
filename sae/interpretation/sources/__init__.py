"""Sources of features: dictionaries, neurons and controls, with the directory of each."""
