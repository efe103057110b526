"""The HTTP server: routes, request validation, responses and telemetry."""
