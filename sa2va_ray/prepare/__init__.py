"""From a folder of annotated images to a prepared data set: checked, de-identified, split by patient."""
