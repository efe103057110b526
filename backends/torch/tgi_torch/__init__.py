"""The library that torch backends share. It is not a backend."""
