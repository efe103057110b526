"""Runs scheduled steps on a device and returns their results."""
