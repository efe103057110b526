"""The limits of the HTTP server in front of the application, and the table of open connections."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, final

import psutil  # type: ignore[import-untyped] # the package has no type annotations

from tgi.config import ServeOptions
from tgi.errors import ConfigError

__all__ = ["Connection", "ConnectionTable", "HttpLimits", "check_descriptors"]

_NUM_RESERVED = 16  # additional connections beyond the limit, only for health checks
_NUM_OTHER_FILES = 32  # file descriptors that are kept free for files, pipes and processes
_MIN_DESCRIPTORS = 96  # for the libraries, the processes and a few connections
_MAX_SWEEP_SECONDS = 1.0
_HEALTH_PATHS = frozenset(("/health", "/ping", "/metrics", "/v2/health/live", "/v2/health/ready"))


@final
@dataclass(frozen=True)
class HttpLimits:
    """Limits of one HTTP server. Times are in seconds."""

    max_connections: int
    max_head_bytes: int = 1 << 16  # maximum size of the request line and the headers together
    max_headers: int = 100
    # Maximum time to receive a head, from the first byte or from the start of the connection.
    head_seconds: float = 30.0
    body_seconds: float = 60.0  # maximum time without a new byte of a body
    write_seconds: float = 60.0  # maximum time in which the client reads no byte of a response
    keep_alive_seconds: float = 620.0  # maximum time between two requests
    health_paths: frozenset[str] = _HEALTH_PATHS  # the only paths on the reserved connections

    @classmethod
    def from_options(cls, options: ServeOptions, health_path: str | None) -> HttpLimits:
        """Return the limits of a server. The number of connections is reduced if the process has
        too few file descriptors. `health_path` is an additional path for health checks.
        """
        allowed = _num_possible_connections()
        requested = options.http_max_connections
        return cls(
            max_connections=allowed if requested is None else min(requested, allowed),
            max_head_bytes=options.http_max_head_bytes,
            max_headers=options.http_max_headers,
            head_seconds=options.http_head_timeout,
            body_seconds=options.http_body_timeout,
            write_seconds=options.http_write_timeout,
            keep_alive_seconds=options.http_keep_alive_timeout,
            health_paths=_HEALTH_PATHS | ({health_path} if health_path else set()),
        )

    @property
    def sweep_seconds(self) -> float:
        """The time between two checks of all connections."""
        times = (self.head_seconds, self.body_seconds, self.write_seconds, self.keep_alive_seconds)
        return min(_MAX_SWEEP_SECONDS, min(times) / 4)


class Connection(Protocol):
    """A connection in the table."""

    def abort(self) -> None:
        """Close the connection without waiting for unsent data."""

    def check_time(self, now: float) -> None:
        """Close the connection if it has exceeded a time limit. `now` is the loop's time."""


@final
class ConnectionTable:
    """All open connections. Connections without a request in progress are idle.

    If the limit is reached, a new connection replaces the connection that has been idle for the
    longest time. If no connection is idle, 16 additional connections are accepted for health
    checks.
    """

    def __init__(self, limits: HttpLimits) -> None:
        self.limits = limits
        self._open: set[Connection] = set()
        self._idle: dict[Connection, None] = {}  # in the order in which they became idle

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._open))

    def add(self, connection: Connection) -> bool:
        """Add a new, idle connection. Returns whether the connection may be used for health checks
        only.
        """
        if len(self._open) >= self.limits.max_connections and self._idle:
            oldest = next(iter(self._idle))
            self.remove(oldest)
            oldest.abort()
        num_others = len(self._open)
        self._open.add(connection)
        self._idle[connection] = None
        if num_others >= self.limits.max_connections + _NUM_RESERVED:
            self.remove(connection)
            connection.abort()
        return num_others >= self.limits.max_connections

    def remove(self, connection: Connection) -> None:
        """Remove a connection that is closed."""
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def set_idle(self, connection: Connection, is_idle: bool) -> None:
        """Record that a request has begun, or that its response has been written completely."""
        if not is_idle:
            self._idle.pop(connection, None)
        elif connection in self._open:
            self._idle[connection] = None

    async def run(self) -> None:
        """Check the time limits of all connections until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.limits.sweep_seconds)
            now = loop.time()
            for connection in self:
                connection.check_time(now)


def check_descriptors() -> None:
    """Raise `ConfigError` if the process may open too few files to serve requests."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _MIN_DESCRIPTORS:
        raise ConfigError(
            f"The process may open {soft} files, and the server needs at least {_MIN_DESCRIPTORS}.",
            "Raise the limit, for example with `ulimit -n 1024`.",
        )


def _num_possible_connections() -> int:
    """Return the number of connections for which the process has file descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    num_open: int = psutil.Process().num_fds()
    return max(1, soft - num_open - _NUM_OTHER_FILES - _NUM_RESERVED)
