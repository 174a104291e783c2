"""A Label Studio server, at the one address that a config names: what it holds, and how it is asked."""
