"""The engine's end of the Unix socket: plain blocking calls, for a process that does one thing at a
time.
"""

from __future__ import annotations

import select
import socket
import time
from typing import final

from tgi.engine.framing import encode_frame, frontend_message_reader
from tgi.engine.messages import EngineMessage, FrontendMessage, Progress

__all__ = ["EngineReporter", "SocketConnection"]

_READ_BYTES = 1 << 20
_PROGRESS_INTERVAL_NS = 100_000_000


@final
class SocketConnection:
    """Frames over a connected stream socket."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._reader = frontend_message_reader()
        self._readable = select.poll()
        self._readable.register(connected, select.POLLIN)

    def receive(self, *, wait: bool) -> list[FrontendMessage]:
        """Messages that have come; with `wait`, at least one. Raises ConnectionError once the front
        is gone.
        """
        messages: list[FrontendMessage] = []
        # Nearly always there is nothing, and to ask costs less than the exception of a read that
        # finds nothing.
        while (wait and not messages) or self._readable.poll(0):
            data = self._socket.recv(_READ_BYTES)
            if not data:
                raise ConnectionError("the front closed the connection")
            messages.extend(self._reader.feed(data))
        return messages

    def send(self, message: EngineMessage) -> None:
        """Send one message, waiting while the front is behind."""
        self._socket.sendall(encode_frame(message))


@final
class EngineReporter:
    """What a worker may use of the engine (`tgi.backend.WorkerReporter`): it reports to the
    front.
    """

    def __init__(self, connection: SocketConnection) -> None:
        self._connection = connection
        self._last_phase = ""
        self._last_ns = 0

    def progress(self, phase: str, done: int, total: int) -> None:
        """Pass progress on; a flood of reports is thinned to ten a second."""
        now = time.monotonic_ns()
        is_news = (
            phase != self._last_phase
            or done >= total
            or now - self._last_ns >= _PROGRESS_INTERVAL_NS
        )
        if is_news:
            self._last_phase, self._last_ns = phase, now
            self._connection.send(Progress(phase, done, total))

    def log(self, message: str) -> None:
        """Pass one line for the operator on."""
        self._connection.send(Progress("log", text=message))
