"""The library that all torch backends use. The library itself is not a backend."""
