"""Who may ask what, from where images come, and what is put on record."""
