"""Ray as all jobs use it: how they connect, what they ask of the cluster, how they map over items, and how a user's
error comes back from its processes."""
