"""From the prepared data set to batches: samples, masks, and the Ray Data pipeline."""
