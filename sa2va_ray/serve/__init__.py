"""Mask inference over HTTP on Ray Serve."""
