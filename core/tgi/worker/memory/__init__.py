"""The division of a device's memory: sizes, limits and out-of-memory errors."""
