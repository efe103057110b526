"""The socket of the server, the HTTP server (uvicorn) and the handling of signals."""

from __future__ import annotations

import asyncio
import errno
import functools
import ipaddress
import signal
import socket
from types import FrameType
from typing import Any, cast, final

import uvicorn

from tgi.cli.http.limits import ConnectionTable, HttpLimits
from tgi.cli.http.protocol import HttpProtocol
from tgi.errors import ConfigError

__all__ = ["HttpServer", "bind"]

_BACKLOG = 2048
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def bind(address: str, port: int) -> socket.socket:
    """Bind a socket to the port without listening. The operating system therefore refuses
    connections until the server is ready.

    Raises `ConfigError` if the port cannot be opened.
    """
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((address, port))
    except OSError as error:
        taken.close()
        reasons = {
            errno.EADDRINUSE: "another program uses the port",
            errno.EACCES: "this user has no permission to use the port",
        }
        reason = reasons.get(error.errno or 0, error.strerror or str(error))
        raise ConfigError(
            f"Port {port} of {address} cannot be opened: {reason}.",
            "Choose another port with `--port`.",
        ) from error
    taken.setblocking(False)
    return taken


@final
class HttpServer:
    """Serves an ASGI application until the process receives a signal. After the signal, open
    requests may finish.

    The object is created before startup, because it also handles signals during startup.
    """

    def __init__(self, graceful_seconds: int) -> None:
        self._graceful_seconds = graceful_seconds
        self._server: uvicorn.Server | None = None
        self._starting: asyncio.Task[Any] | None = None
        self._loop = asyncio.get_running_loop()
        self.is_stopping = False

    def watch_signals(self, starting: asyncio.Task[Any]) -> None:
        """Install the signal handlers. During startup a signal cancels `starting`. After startup a
        signal shuts the server down.
        """
        self._starting = starting
        for number in _SIGNALS:
            # `loop.add_signal_handler` cannot be used. While uvicorn serves, it replaces the
            # handlers that were set with `signal.signal`. After that it restores these handlers and
            # calls them for the signals that it received.
            signal.signal(number, self._stop)

    async def serve(self, app: Any, sockets: list[socket.socket], limits: HttpLimits) -> None:  # noqa: ANN401 - an ASGI application
        """Serve until a signal arrives. After the signal, open requests have at most
        `graceful_seconds` to finish.
        """
        table = ConnectionTable(limits)
        config = uvicorn.Config(
            app,
            loop="none",
            http=cast("type[asyncio.Protocol]", functools.partial(HttpProtocol, table)),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=True,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=self._graceful_seconds,
        )
        self._server = uvicorn.Server(config)
        self._starting = None
        if self.is_stopping:
            return
        sweep = asyncio.ensure_future(table.run())
        try:
            await self._server.serve(sockets=sockets)
        finally:
            sweep.cancel()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.is_stopping = True
        if self._server is not None:
            self._server.should_exit = True
        if self._starting is not None:
            self._loop.call_soon_threadsafe(self._starting.cancel)
