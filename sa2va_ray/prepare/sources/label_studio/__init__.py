"""Label Studio's exports, JSON and JSON-min: their documents, the annotations in them, and the regions of those."""
