"""Sa2VA as a flat Hugging Face folder: trained here, and copied as it is into every exported model."""
