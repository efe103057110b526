"""The decoder of a `ModelSpec` in JAX, and its parts."""
