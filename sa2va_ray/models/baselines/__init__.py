"""The models that Sa2VA is compared with."""
