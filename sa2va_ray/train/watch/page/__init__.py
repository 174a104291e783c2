"""The page of a run, `run.html`: what is on it, its charts, and who writes it when."""
