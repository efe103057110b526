"""The socket of the server, the HTTP server (uvicorn) and the handling of signals."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, cast, final

import uvicorn

from tgi.cli.http.limits import ConnectionTable, HttpLimits
from tgi.cli.http.protocol import HttpProtocol
from tgi.errors import ConfigError

__all__ = ["HttpServer", "bind"]

_logger = logging.getLogger("tgi")

_BACKLOG = 2048
_FLUSH_SECONDS = 0.5  # time to write the last events and error responses
_SIGNAL_STATUS = 128  # the exit code after a signal is this number plus that of the signal
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
class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers. `on_listening` is called when the port accepts
    connections.
    """

    def __init__(self, config: uvicorn.Config, on_listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on the sockets."""
        await super().startup(sockets=sockets)
        self._on_listening()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing. `HttpServer` handles the signals."""
        yield


@final
class HttpServer:
    """Serves an ASGI application until the process receives a signal. After the signal, open
    requests may finish for `graceful_seconds`. A second signal ends this time.

    The object is created before startup, because it also handles signals during startup.
    """

    def __init__(self, graceful_seconds: int) -> None:
        self._graceful_seconds = graceful_seconds
        self._server: _Server | None = None
        self._table: ConnectionTable | None = None
        self._starting: asyncio.Task[Any] | None = None
        self._loop = asyncio.get_running_loop()
        self._end_requests: Callable[[], None] = lambda: None
        self._ending: asyncio.Task[None] | None = None
        self._signals: list[signal.Signals] = []
        self._second_signal = asyncio.Event()

    @property
    def is_stopping(self) -> bool:
        """Whether a signal has arrived."""
        return bool(self._signals)

    @property
    def is_forced(self) -> bool:
        """Whether a second signal has arrived, so that the server must end at once."""
        return len(self._signals) > 1

    async def wait_forced(self) -> None:
        """Wait for a second signal."""
        await self._second_signal.wait()

    @property
    def signal_status(self) -> int:
        """The exit code of a process that the first signal has ended."""
        return _SIGNAL_STATUS + self._signals[0]

    def watch_signals(self, starting: asyncio.Task[Any]) -> None:
        """Install the signal handlers. During startup a signal cancels `starting`. After startup a
        signal shuts the server down. If the process was started with SIGHUP ignored, as `nohup`
        does, SIGHUP stays ignored.
        """
        self._starting = starting
        for number in _SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            # A handler of `signal.signal` runs even if the event loop is blocked.
            signal.signal(number, self._stop)

    async def serve(
        self,
        app: Any,  # noqa: ANN401 - an ASGI application
        sockets: list[socket.socket],
        limits: HttpLimits,
        on_listening: Callable[[], None],
        end_requests: Callable[[], None],
    ) -> None:
        """Serve until a signal arrives. `on_listening` is called when the port accepts connections.

        `end_requests` is called at the end of the time for open requests. It must end all
        generations with an error.
        """
        self._table = table = ConnectionTable(limits)
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
        )
        self._end_requests = end_requests
        self._server = _Server(config, on_listening)
        self._starting = None
        if self.is_stopping:
            return
        sweep = asyncio.ensure_future(table.run())
        try:
            await self._server.serve(sockets=sockets)
        finally:
            sweep.cancel()
            if self._ending is not None:
                self._ending.cancel()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._signals.append(signal.Signals(number))
        if len(self._signals) > 2:
            os._exit(_SIGNAL_STATUS + number)
        if self.is_forced:
            self._loop.call_soon_threadsafe(self._second_signal.set)
        if self._starting is not None:
            self._loop.call_soon_threadsafe(self._starting.cancel)
        elif self._server is not None:
            self._server.should_exit = True
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        """Log that the server ends, and set the time for the open requests."""
        seconds = 0 if self.is_forced else self._graceful_seconds
        if self._ending is not None:
            self._ending.cancel()
        elif self._server is not None:
            num_open = len(self._server.server_state.tasks)
            _logger.info(
                "Shutting down after %s. %d open requests have at most %d s to finish. A second"
                " signal ends them at once.",
                self._signals[0].name,
                num_open,
                seconds,
            )
        self._ending = asyncio.ensure_future(self._end(seconds))

    async def _end(self, seconds: float) -> None:
        """End all requests after `seconds`. First the generations end with an error. Requests that
        are still open after that are cancelled, and their connections are closed.
        """
        if self._server is None or self._table is None:
            return
        await asyncio.sleep(seconds)
        self._end_requests()
        await asyncio.sleep(_FLUSH_SECONDS)
        for task in self._server.server_state.tasks:
            task.cancel()
        await asyncio.sleep(_FLUSH_SECONDS)
        for connection in self._table:
            connection.abort()
        self._server.force_exit = True
