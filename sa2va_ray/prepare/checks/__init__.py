"""What a sample has to be like, looked at alone and beside the others."""
