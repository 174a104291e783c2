"""Training on Ray Train with DeepSpeed ZeRO-3."""
