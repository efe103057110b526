"""The listening socket, uvicorn, and the signals that end them."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import signal
import socket
from types import FrameType
from typing import Any, final

import uvicorn

from tgi.errors import ConfigError

__all__ = ["HttpServer", "bind"]

_BACKLOG = 2048
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def bind(address: str, port: int) -> socket.socket:
    """Take the port without listening on it yet: a client that connects before the server is ready
    is refused.

    Raises `ConfigError` if the port cannot be had.
    """
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((address, port))
    except OSError as error:
        taken.close()
        reasons = {
            errno.EADDRINUSE: "another program uses it",
            errno.EACCES: "this user may not use it",
        }
        reason = reasons.get(error.errno or 0, error.strerror or str(error))
        raise ConfigError(
            f"Port {port} of {address} cannot be opened: {reason}.", "Choose another with `--port`."
        ) from error
    taken.setblocking(False)
    return taken


@final
class HttpServer:
    """Serves an ASGI application until a signal comes, then lets open requests finish. Made before
    the start, for the signals.
    """

    def __init__(self, graceful_seconds: int) -> None:
        self._graceful_seconds = graceful_seconds
        self._server: uvicorn.Server | None = None
        self._starting: asyncio.Task[Any] | None = None
        self._loop = asyncio.get_running_loop()
        self.is_stopping = False

    def watch_signals(self, starting: asyncio.Task[Any]) -> None:
        """From now on a signal cancels `starting`; once the server serves, a signal drains it."""
        self._starting = starting
        for number in _SIGNALS:
            # Not `loop.add_signal_handler`: uvicorn swaps these handlers for its own while it
            # serves, and calls them again after.
            signal.signal(number, self._stop)

    async def serve(self, app: Any, sockets: list[socket.socket]) -> None:  # noqa: ANN401 - an ASGI application
        """Serve until a signal, then drain: at most `graceful_seconds` for open requests."""
        config = uvicorn.Config(
            app,
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=True,
            backlog=_BACKLOG,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=self._graceful_seconds,
        )
        self._server = uvicorn.Server(config)
        self._starting = None
        if not self.is_stopping:
            await self._server.serve(sockets=sockets)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.is_stopping = True
        if self._server is not None:
            self._server.should_exit = True
        if self._starting is not None:
            self._loop.call_soon_threadsafe(self._starting.cancel)
