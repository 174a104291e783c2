"""jobs.predict: many images from a folder, a data set or a list, on the whole cluster."""
