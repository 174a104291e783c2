"""Base weights on their way to a store: from the Hugging Face hub, another store or a folder."""
