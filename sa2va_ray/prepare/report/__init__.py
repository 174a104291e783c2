"""The report of the prepare job: its numbers, its pictures and its page."""
