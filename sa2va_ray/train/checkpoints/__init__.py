"""Saving a run, resuming it, and the lock by which one job at a time does so."""
