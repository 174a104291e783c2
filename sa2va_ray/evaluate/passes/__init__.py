"""Passes over a split on the cluster: a model's answers, measured against the truth."""
