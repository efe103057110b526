"""HTTP below the routes: reading bodies, routing, server-sent events and response helpers."""
