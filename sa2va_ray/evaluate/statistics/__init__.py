"""From rows of measured objects to statements about a model."""
