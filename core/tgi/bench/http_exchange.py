"""One HTTP/1.1 exchange over a connection of its own, with the moment of every read.

The client shares the processor with the server it measures: while bytes arrive it only keeps them.
They are read afterwards.
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
    """Where a server listens. `base` stands before every path; `headers` are sent with every
    request.
    """

    host: str
    port: int
    base: str = ""
    is_tls: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def parse(url: str, headers: Mapping[str, str] | None = None) -> Endpoint:
        """From `http://host[:port][/base]` or `https://…`. Raises ValueError with what is wrong."""
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError(f"'{url}' is no address like http://127.0.0.1:3000")
        # People paste the base address of OpenAI clients, which ends with the version.
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
    """What one connection brought. Moments are of `time.perf_counter`."""

    sent: float = 0.0
    reads: list[tuple[float, bytes]] = field(default_factory=list)


@final
class _Collector(asyncio.Protocol):
    """Sends a request once connected; keeps what comes until the server closes."""

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
    """Send `request` and keep the answer. `on_events` hears the number of events of each read,
    roughly.

    Raises OSError if the connection fails, TimeoutError after `limit` seconds.
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
    """An answer without its frames, which still knows when each part of it came."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    _starts: list[int]  # of the pieces of the body, in the body
    _offsets: list[int]  # of the same pieces, among the bytes received
    _ends: list[int]  # of the reads, among the bytes received
    _moments: list[float]  # of the reads

    def moment(self, position: int) -> float:
        """When the byte at this position of the body came."""
        piece = bisect_right(self._starts, position) - 1
        received = self._offsets[piece] + position - self._starts[piece]
        return self._moments[bisect_left(self._ends, received + 1)]

    def events(self) -> Iterator[tuple[float, bytes]]:
        """The data of each server-sent event, and when its line was complete."""
        position = 0
        for line in self.body.splitlines(keepends=True):
            position += len(line)
            if line.startswith(_DATA):
                yield self.moment(position - 1), line[len(_DATA) :].strip()


def read_response(received: Exchange) -> Response:
    """Take an answer apart. Raises ValueError where it breaks off or is not HTTP/1."""
    raw = b"".join(data for _, data in received.reads)
    head, mark, _ = raw.partition(b"\r\n\r\n")
    if not mark or not head.startswith(b"HTTP/1."):
        raise ValueError("the server closed the connection without an HTTP answer")
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
    """Begin and end of each chunk of a chunked body."""
    while True:
        line_end = raw.find(b"\r\n", position)
        if line_end < 0:
            raise ValueError("the answer breaks off")
        size = int(raw[position:line_end].partition(b";")[0], 16)
        if not size:
            return
        begin = line_end + 2
        position = begin + size + 2
        if position > len(raw):
            raise ValueError("the answer breaks off")
        yield begin, begin + size
