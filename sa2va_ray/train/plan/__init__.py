"""What a run will take, before a GPU is taken: memory and operations."""
