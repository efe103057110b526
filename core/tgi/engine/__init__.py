"""The engine process, and the client through which the front end uses it."""
