"""Label Studio's ML backend: its requests, its replies and its run lengths of brush masks."""
