"""Pixels and numbers to pictures for people: masks over images, sheets of pictures, charts, frame of every report."""
