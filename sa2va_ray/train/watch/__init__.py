"""What is reported of a run while it goes on: log lines, curves, warnings, facts."""
