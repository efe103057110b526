"""Handles a request with HTTP/1.0 and its response."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from tgi.cli.http.cycle import EndingCycle

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

__all__ = ["Http10Cycle"]


@final
class Http10Cycle(EndingCycle):
    """A cycle without chunked encoding, because HTTP/1.0 has no chunks. The body of the response
    ends at its `Content-Length`, or at the end of the connection.

    The connection stays open only if the client requested this and the response has a
    `Content-Length` (RFC 9112, sections 6.1 and 9.3).
    """

    ends_at_close = False

    async def send(self, message: ASGISendEvent) -> None:
        """Write the start or a part of the response."""
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            names = {name.lower() for name, _ in headers}
            if b"content-length" not in names:
                self.ends_at_close = True
                self.chunked_encoding = False
                self.keep_alive = False
            elif self.keep_alive and b"connection" not in names:
                message = {**message, "headers": [*headers, (b"connection", b"keep-alive")]}
        elif self.ends_at_close and message["type"] == "http.response.body":
            # The base class compares the length of the body with this number.
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)
