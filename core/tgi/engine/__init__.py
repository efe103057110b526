"""The engine process and the front's client of it."""
