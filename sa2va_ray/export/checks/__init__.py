"""The checks that an exported folder has to pass before it is published."""
