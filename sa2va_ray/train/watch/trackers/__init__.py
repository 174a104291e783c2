"""Where the curves of a run go: one file for each place, and the registry that names them."""
