"""The HTTP server below the application: socket, protocol, limits and signals."""
