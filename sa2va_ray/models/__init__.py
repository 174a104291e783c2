"""Building, adapting and loading Sa2VA."""
