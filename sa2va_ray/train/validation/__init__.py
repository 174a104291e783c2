"""Validation between two steps."""
