"""Models built from a `ModelSpec`."""
