"""DeepSpeed around the model: how the training state is spread over the workers, and how it is read and set."""
