"""What a person types: the verbs, how one connects to a cluster and a store, and how results are looked at."""
