"""Divides the memory of a device: sizes, limits, and the errors when the memory runs out."""
