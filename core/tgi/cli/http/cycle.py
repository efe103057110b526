"""Handles a request and its response, until the response is complete or the server ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from tgi.errors import UnhealthyError

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope

__all__ = ["EndingCycle", "server_ends"]

_RETRY_SECONDS = 5


def server_ends() -> UnhealthyError:
    """Return the error of a request that the end of the server interrupts."""
    return UnhealthyError(
        "The server is shutting down, and the time for open requests is over. Send the request to"
        " another server, or again after a restart.",
        _RETRY_SECONDS,
    )


class EndingCycle(RequestResponseCycle):
    """A cycle that can be cancelled when the server ends. If no byte of the response has been sent,
    the response is a JSON error with status 503. Otherwise the connection is closed.
    """

    async def run_asgi(self, app: ASGI3Application) -> None:
        """Run the application for one request."""

        async def run(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:
                await self._end(send)

        await super().run_asgi(run)

    async def _end(self, send: ASGISendCallable) -> None:
        if self.response_started:
            self.disconnected = True  # no further byte is sent
            self.transport.close()
            return
        error = server_ends()
        body = msgspec.json.encode({"error": error.text, "error_type": error.error_type})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"retry-after", b"%d" % _RETRY_SECONDS),
            (b"connection", b"close"),
        ]
        await send(
            {
                "type": "http.response.start",
                "status": error.status,
                "headers": headers,
                "trailers": False,
            }
        )
        await send({"type": "http.response.body", "body": body, "more_body": False})
