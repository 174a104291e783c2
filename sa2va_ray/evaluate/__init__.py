"""Measuring a model on patients that it has not seen."""
