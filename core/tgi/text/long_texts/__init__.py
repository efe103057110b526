"""Tokenizes long texts in a separate process."""
