"""A slow and simple implementation of every model spec in numpy, for comparison."""
