"""The HTTP side of the endpoint: reads requests, asks the model, writes replies."""
