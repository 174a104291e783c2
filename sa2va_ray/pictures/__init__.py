"""Pixels and numbers to pictures for people: panels, charts."""
