"""Evaluations and calibrations as HTML files."""
