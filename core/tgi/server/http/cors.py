"""Cross-origin resource sharing (CORS): response headers and preflight requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["CorsLayer"]

_VARY = (b"vary", b"origin, access-control-request-method, access-control-request-headers")
_PREFLIGHT = [
    (b"access-control-allow-methods", b"GET,POST"),
    (b"content-length", b"0"),
]


@final
class CorsLayer:
    """The outermost ASGI layer. It adds CORS headers to each response, and responds to `OPTIONS`
    requests of all paths itself, because they are preflight requests.

    If `allow_origin` is empty or contains `*`, all origins are allowed. Otherwise only the listed
    origins are allowed. All request headers are allowed.
    """

    def __init__(self, app: ASGIApp, allow_origin: Sequence[str]) -> None:
        self._app = app
        self._allow_origin = frozenset(origin.encode() for origin in allow_origin)
        self._allows_all = not allow_origin or "*" in allow_origin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = [_VARY, *self._origin_header(scope)]
        if scope["method"] == "OPTIONS":
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [*headers, *_PREFLIGHT, _allowed_headers(scope)],
                }
            )
            await send({"type": "http.response.body", "body": b""})
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _origin_header(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        if self._allows_all:
            return [(b"access-control-allow-origin", b"*")]
        origin = _header(scope, b"origin")
        return [(b"access-control-allow-origin", origin)] if origin in self._allow_origin else []


def _allowed_headers(scope: Scope) -> tuple[bytes, bytes]:
    """The request headers that the browser wants to send. They are listed one by one, because `*`
    would not include `Authorization`.
    """
    requested = _header(scope, b"access-control-request-headers")
    return b"access-control-allow-headers", requested or b"content-type"


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)
