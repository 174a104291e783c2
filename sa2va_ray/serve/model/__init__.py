"""The model side of the endpoint: replicas that answer batches of questions."""
