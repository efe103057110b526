"""The HTTP server of `tgi serve`: its socket, its protocol and its limits."""
