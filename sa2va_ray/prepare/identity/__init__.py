"""Who a sample is of: pseudonyms and their key, the pattern that finds the patient in a path, the splits by patient."""
