"""Public data sets of vessels, known by the names of their files."""
