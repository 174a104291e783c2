"""Labels in JSON files, one file for each layout; `read.py` finds out which a file has."""
