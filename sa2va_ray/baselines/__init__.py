"""Fitting the baselines, on the same training patients and by the same pipeline as Sa2VA."""
