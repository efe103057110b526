"""Cross-origin resource sharing (CORS): response headers and preflight requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["CorsLayer"]

_VARY = (b"vary", b"origin, access-control-request-method, access-control-request-headers")
_PREFLIGHT = [
    (b"access-control-allow-methods", b"GET,POST"),
    (b"access-control-allow-headers", b"content-type"),
    (b"content-length", b"0"),
]


@final
class CorsLayer:
    """The outermost ASGI layer. It adds CORS headers to each response, and responds to `OPTIONS`
    requests of all paths itself, because they are preflight requests.

    If `allow_origin` is empty, all origins are allowed. Otherwise only the listed origins are.
    """

    def __init__(self, app: ASGIApp, allow_origin: Sequence[str]) -> None:
        self._app = app
        self._allow_origin = frozenset(origin.encode() for origin in allow_origin)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = [_VARY, *self._origin_header(scope)]
        if scope["method"] == "OPTIONS":
            await send(
                {"type": "http.response.start", "status": 200, "headers": headers + _PREFLIGHT}
            )
            await send({"type": "http.response.body", "body": b""})
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _origin_header(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        if not self._allow_origin:
            return [(b"access-control-allow-origin", b"*")]
        origin = next((value for name, value in scope["headers"] if name == b"origin"), None)
        return [(b"access-control-allow-origin", origin)] if origin in self._allow_origin else []
