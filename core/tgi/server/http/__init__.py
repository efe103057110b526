"""HTTP functions for the routes: routing, request bodies, server-sent events and responses."""
