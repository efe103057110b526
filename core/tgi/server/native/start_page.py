"""The page at `/` for browsers: the model, and links to the routes that a person can open."""

from __future__ import annotations

from html import escape

from starlette.requests import Request
from starlette.responses import Response

from tgi.server.state import ServerConfig

__all__ = ["is_browser", "start_page"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_LINKS = {
    "/docs": "all routes, which you can try",
    "/info": "the limits of this server",
    "/info/backend": "the backend and its limits",
    "/v1/models": "the model, in OpenAI's format",
    "/metrics": "metrics for Prometheus",
    "/health": "200 without a body if the server can generate",
}
_EXAMPLE = """curl {address}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{ "messages": [{{ "role": "user", "content": "What is Deep Learning?" }}] }}'"""


def is_browser(request: Request) -> bool:
    """Whether the client asks for HTML. Health checks and HTTP libraries do not ask for HTML."""
    return "text/html" in request.headers.get("accept", "")


def start_page(config: ServerConfig, address: str) -> Response:
    """Return the page. `address` is the base URL under which the client reached the server."""
    rows = "\n".join(
        f'<li><a href="{path.lstrip("/")}">{path}</a>: {text}</li>' for path, text in _LINKS.items()
    )
    example = escape(_EXAMPLE.format(address=address.rstrip("/")))
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>tgi</title>
<style>body {{ font-family: sans-serif; max-width: 45em; margin: 2em auto }}</style>
</head>
<body>
<h1>tgi {escape(config.version)}</h1>
<p>This server generates text with the model <code>{escape(config.model_id)}</code> on the backend
<code>{escape(config.backend_name)}</code>.</p>
<ul>
{rows}
</ul>
<pre>{example}</pre>
</body>
</html>
"""
    headers = {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": _POLICY,
        "vary": "accept",
    }
    return Response(page, headers=headers)
