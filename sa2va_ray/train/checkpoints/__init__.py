"""Saving a run, going on from where it was, and who may."""
