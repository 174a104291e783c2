"""From a folder of weights, in any layout that people have, to the model."""
