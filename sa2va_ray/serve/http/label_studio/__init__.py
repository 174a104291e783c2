"""Label Studio's ML backend: its requests and its replies."""
