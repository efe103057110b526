"""Server-sent events: one `data:` line per event, a comment after 15 quiet seconds."""

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
    """The event that carries one line of JSON."""
    return f"data: {data}\n\n"


def named_event(name: str, data: str) -> str:
    """The same with a line that names it."""
    return f"event: {name}\ndata: {data}\n\n"


@final
class EventStream:
    """An answer of status 200 whose body is made while it is sent; each text of `events` holds
    those that are ready together.

    The events are not asked for before the head is sent, but for those that `open` took. When the
    client leaves they are closed at once.
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
        """`opening` goes before `events`; `ending` is called after the last of them for what
        follows.
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
        cls, receive: Receive, events: AsyncGenerator[str, None], headers: Mapping[str, str]
    ) -> EventStream:
        """A stream whose first events are there before its head is sent: what goes wrong up to then
        has a status of its own.

        Raises what `events` raises, and `DisconnectError`.
        """
        return cls(events, headers, opening=await run_until_disconnect(receive, anext(events)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
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
