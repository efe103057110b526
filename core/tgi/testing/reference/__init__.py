"""A slow and simple implementation of every model spec in numpy, as a reference for tests."""
