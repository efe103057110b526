"""Server-sent events: one `data:` line per event, and a comment after 15 s without an event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import final

from starlette.types import Receive, Scope, Send

from tgi.server.http.routing import DisconnectError, run_until_disconnect

__all__ = ["DONE", "EventStream", "event", "named_event"]

DONE = "data: [DONE]\n\n"
_COMMENT = b":\n\n"
_KEEP_ALIVE_SECONDS = 15.0
_HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


def event(data: str) -> str:
    """Format an event without a name. `data` is one line of JSON."""
    return f"data: {data}\n\n"


def named_event(name: str, data: str) -> str:
    """Format an event with a name. `data` is one line of JSON."""
    return f"event: {name}\ndata: {data}\n\n"


@final
class EventStream:
    """A response with status 200 whose events are produced while the response is sent. Each item of
    `events` contains all events that are available at that time.

    The first item is requested after the response headers have been sent, unless the stream was
    created by `open`. If the client disconnects, `events` is closed immediately.
    """

    def __init__(
        self,
        events: AsyncGenerator[str, None],
        headers: Mapping[str, str],
        *,
        opening: str = "",
        ending: Callable[[], str] = str,
        keep_alive_seconds: float = _KEEP_ALIVE_SECONDS,
    ) -> None:
        """`opening` is sent before `events`. `ending` is called after the last event, and its
        result is sent at the end.
        """
        self._events = events
        self._headers = [
            (name.encode(), value.encode("latin-1"))
            for name, value in (_HEADERS | dict(headers)).items()
        ]
        self._opening = opening
        self._ending = ending
        self._keep_alive_seconds = keep_alive_seconds
        self._last_sent = 0.0

    @classmethod
    async def open(
        cls,
        receive: Receive,
        events: AsyncGenerator[str, None],
        headers: Mapping[str, str],
        *,
        ending: Callable[[], str] = str,
    ) -> EventStream:
        """Wait for the first item of `events`, then create the stream. An error before that item
        can therefore be returned with its own status. `ending` is that of the constructor.

        Raises the exceptions of `events`, and `DisconnectError` if the client disconnects.
        """
        opening = await run_until_disconnect(receive, anext(events))
        return cls(events, headers, opening=opening, ending=ending)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        del scope
        async with aclosing(self._events):
            try:
                await run_until_disconnect(receive, self._send_all(send))
            except DisconnectError:
                return

    async def _send_all(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        if self._opening:
            await send(
                {"type": "http.response.body", "body": self._opening.encode(), "more_body": True}
            )
        self._last_sent = loop.time()
        keep_alive = asyncio.ensure_future(self._keep_alive(send))
        try:
            async for text in self._events:
                if text:
                    await send(
                        {"type": "http.response.body", "body": text.encode(), "more_body": True}
                    )
                    self._last_sent = loop.time()
        finally:
            keep_alive.cancel()
            await asyncio.gather(keep_alive, return_exceptions=True)
        await send({"type": "http.response.body", "body": self._ending().encode()})

    async def _keep_alive(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        while True:
            rest = self._last_sent + self._keep_alive_seconds - loop.time()
            if rest > 0:
                await asyncio.sleep(rest)
            else:
                await send({"type": "http.response.body", "body": _COMMENT, "more_body": True})
                self._last_sent = loop.time()
