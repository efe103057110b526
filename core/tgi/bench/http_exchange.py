"""One HTTP/1.1 exchange over a new connection, with the time of each read.

The client shares the CPU with the server that it measures. During the measurement it therefore only
stores the received bytes. They are parsed afterwards.
"""

from __future__ import annotations

import asyncio
import json
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import cast, final
from urllib.parse import urlsplit

__all__ = ["Endpoint", "Exchange", "Response", "exchange", "read_response"]

_DATA = b"data:"
_PORTS = {"http": 80, "https": 443}


@final
@dataclass(frozen=True)
class Endpoint:
    """The address of a server. `base` is the prefix of all paths. `headers` are sent with each
    request.
    """

    host: str
    port: int
    base: str = ""
    is_tls: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def parse(url: str, headers: Mapping[str, str] | None = None) -> Endpoint:
        """Parse `http://host[:port][/base]` or `https://…`. Raises ValueError if it is invalid."""
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError(f"'{url}' is not an address such as http://127.0.0.1:3000")
        # The base address of OpenAI clients ends with the version, which is part of our routes.
        base = parts.path.rstrip("/").removesuffix("/v1")
        port = parts.port or _PORTS[parts.scheme]
        return Endpoint(parts.hostname, port, base, parts.scheme == "https", dict(headers or {}))

    def request(self, method: str, path: str, body: object = None) -> bytes:
        """The bytes of a request; `body` is sent as JSON unless it is None."""
        payload = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        lines = [
            f"{method} {self.base}{path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            "Connection: close",
        ]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(payload)}"]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + payload


@final
@dataclass
class Exchange:
    """The received bytes of one connection, with their times from `time.perf_counter`."""

    sent: float = 0.0
    reads: list[tuple[float, bytes]] = field(default_factory=list)


@final
class _Collector(asyncio.Protocol):
    """Sends a request and stores all received bytes until the server closes the connection."""

    def __init__(self, request: bytes, on_events: Callable[[int], None] | None) -> None:
        self.result = Exchange()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._on_events = on_events

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.result.sent = time.perf_counter()
        cast(asyncio.WriteTransport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self.result.reads.append((time.perf_counter(), data))
        if self._on_events is not None:
            self._on_events(data.count(_DATA))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.ended.done():
            return
        if exc is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(exc)


async def exchange(
    endpoint: Endpoint, request: bytes, limit: float, on_events: Callable[[int], None] | None = None
) -> Exchange:
    """Send `request` and return the received bytes. `on_events` is called for each read with the
    approximate number of events in it.

    Raises OSError if the connection fails, and TimeoutError after `limit` seconds.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(limit):
        tls = True if endpoint.is_tls else None
        transport, collector = await loop.create_connection(
            lambda: _Collector(request, on_events), endpoint.host, endpoint.port, ssl=tls
        )
        try:
            await collector.ended
        finally:
            transport.abort()
    return collector.result


@final
@dataclass(frozen=True)
class Response:
    """A parsed response with the time at which each byte of the body was received."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    _starts: list[int]  # position of each chunk in the body
    _offsets: list[int]  # position of each chunk in the received bytes
    _ends: list[int]  # end of each read in the received bytes
    _moments: list[float]  # time of each read

    def moment(self, position: int) -> float:
        """The time at which the byte at this position of the body was received."""
        piece = bisect_right(self._starts, position) - 1
        received = self._offsets[piece] + position - self._starts[piece]
        return self._moments[bisect_left(self._ends, received + 1)]

    def events(self) -> Iterator[tuple[float, bytes]]:
        """The data of each server-sent event, and the time at which its line was complete."""
        position = 0
        for line in self.body.splitlines(keepends=True):
            position += len(line)
            if line.startswith(_DATA):
                yield self.moment(position - 1), line[len(_DATA) :].strip()


def read_response(received: Exchange) -> Response:
    """Parse a response. Raises ValueError if it is incomplete or not HTTP/1."""
    raw = b"".join(data for _, data in received.reads)
    head, mark, _ = raw.partition(b"\r\n\r\n")
    if not mark or not head.startswith(b"HTTP/1."):
        raise ValueError("the server closed the connection without an HTTP response")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines)
    }
    start = len(head) + len(mark)
    is_chunked = "chunked" in headers.get("transfer-encoding", "").lower()
    pieces = list(_chunks(raw, start)) if is_chunked else [(start, len(raw))]
    parts = [raw[begin:end] for begin, end in pieces]
    return Response(
        status=int(status.split(" ", 2)[1]),
        headers=headers,
        body=b"".join(parts),
        _starts=list(accumulate(map(len, parts[:-1]), initial=0)),
        _offsets=[begin for begin, _ in pieces],
        _ends=list(accumulate(len(data) for _, data in received.reads)),
        _moments=[moment for moment, _ in received.reads],
    )


def _chunks(raw: bytes, position: int) -> Iterator[tuple[int, int]]:
    """The start and end of each chunk of a chunked body."""
    while True:
        line_end = raw.find(b"\r\n", position)
        if line_end < 0:
            raise ValueError("the response is incomplete")
        size = int(raw[position:line_end].partition(b";")[0], 16)
        if not size:
            return
        begin = line_end + 2
        position = begin + size + 2
        if position > len(raw):
            raise ValueError("the response is incomplete")
        yield begin, begin + size
