"""Handles a request and its response, until the response is complete or the server ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

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
    the response is an error with status 503 in the client's protocol. Otherwise the connection is
    closed.
    """

    async def run_asgi(self, app: ASGI3Application) -> None:
        """Run the application for one request."""

        async def run(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:
                await self._end(scope, receive, send)

        await super().run_asgi(run)

    async def _end(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        if self.response_started:
            self.disconnected = True  # no further byte is sent
            self.transport.close()
            return
        # The web framework is imported while the engine starts. A server that handles a request has
        # imported it.
        from tgi.server.error_responses import error_response  # noqa: PLC0415 - see above

        response = error_response(cast("Any", scope), server_ends())
        response.headers["connection"] = "close"
        await response(cast("Any", scope), cast("Any", receive), cast("Any", send))
