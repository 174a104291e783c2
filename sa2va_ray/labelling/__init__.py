"""jobs.label_queue: which images are to be labelled next, as tasks of Label Studio with the model's masks."""
