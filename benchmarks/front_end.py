"""Measure the overhead of the front end: server-sent events per second with the null backend,
compared with a bare Starlette endpoint.

    python benchmarks/front_end.py [--streams 32] [--tokens 2000] [--rounds 5] [--step-ms 5]

Both servers send the same bytes with the same uvicorn. The bare endpoint switches to another stream
after each event. Our front end writes all events that are ready in one call. The two servers are
measured in interleaved rounds, and a share is the median over the rounds of the ratio within a
round. Our engine and the client run on the same processors as the front end, and this reduces our
rate by wall time. The processor time of the front-end process is therefore printed too. With
`--step-ms` each step of the engine lasts at least this long, like a step of a real model, and the
bare endpoint waits as long between two events. In that case only the processor times are
comparable.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple, cast, final

import psutil
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from tgi.testing.tiny_models import write_tiny_model

# Both requests use greedy decoding.
_ROUTES = {
    "/generate_stream": {"inputs": "hello world", "parameters": {}},
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0,
        "stream": True,
    },
}
_CHAT_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
_MAX_TOTAL_TOKENS = 1 << 16
_HEAD = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
_START_SECONDS = 120.0


def main() -> int:
    """Measure both servers and print a table."""
    if sys.argv[1:2] == ["--bare"]:
        _serve_bare(Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--step-ms", type=float, default=0.0, help="minimum duration of an engine step"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tiny_model(folder / "model", chat_template=_CHAT_TEMPLATE)
        (folder / "script.json").write_text(json.dumps({"step_seconds": arguments.step_ms / 1e3}))
        for route, body in _ROUTES.items():
            _compare(folder, route, _with_length(body, arguments.tokens), arguments)
    return 0


def _with_length(body: dict[str, object], num_tokens: int) -> dict[str, object]:
    if "parameters" in body:
        return body | {"parameters": {"max_new_tokens": num_tokens, "ignore_eos": True}}
    return body | {"max_tokens": num_tokens, "ignore_eos": True}


def _compare(
    folder: Path, route: str, body: dict[str, object], arguments: argparse.Namespace
) -> None:
    recorded = folder / "events"
    port, bare_port = _free_port(), _free_port()
    command = [
        "-m",
        "tgi",
        "serve",
        str(folder / "model"),
        "--backend",
        "null",
        "--null-script",
        str(folder / "script.json"),
    ]
    command += [
        "--port",
        str(port),
        "--hostname",
        "127.0.0.1",
        "--max-total-tokens",
        str(_MAX_TOTAL_TOKENS),
    ]
    with _running(command, port) as pid:
        recorded.write_bytes(b"".join(_events(*_read_all(port, route, body, 1))))
        with _running(
            [__file__, "--bare", str(recorded), str(bare_port), str(arguments.step_ms / 1e3)],
            bare_port,
        ) as bare_pid:
            rounds: dict[str, list[Round]] = {"tgi": [], "bare": []}
            # The rounds are interleaved, so that other load on the machine affects both servers.
            for _ in range(arguments.rounds + 1):
                rounds["tgi"].append(_measure(pid, port, route, body, arguments.streams))
                rounds["bare"].append(_measure(bare_pid, bare_port, route, body, arguments.streams))
    print(f"{route}, {arguments.streams} streams; medians of {arguments.rounds} rounds")
    for name, measured in rounds.items():
        rate, cost, bundle = (median(figures) for figures in zip(*measured[1:], strict=True))
        print(
            f"  {name:<5} {rate:>9,.0f} events/s   {cost * 1e6:>6.1f} µs of processor time each  "
            f" {bundle:>5.1f} in a write"
        )
    pairs = list(zip(rounds["tgi"], rounds["bare"], strict=True))[1:]
    wall, processor = (
        median(tgi.rate / bare.rate for tgi, bare in pairs),
        median(bare.cost / tgi.cost for tgi, bare in pairs),
    )
    print(f"  share {wall:>9.0%} by wall time, {processor:.0%} by processor time")


class Round(NamedTuple):
    """One round of all streams."""

    rate: float  # events per second
    cost: float  # processor seconds of the front-end process per event
    bundle: float  # events per write


def _measure(pid: int, port: int, route: str, body: dict[str, object], num_streams: int) -> Round:
    process = psutil.Process(pid)
    used, began = sum(process.cpu_times()[:2]), time.perf_counter()
    responses = _read_all(port, route, body, num_streams)
    seconds, spent = time.perf_counter() - began, sum(process.cpu_times()[:2]) - used
    num_events = sum(len(_events(response)) for response in responses)
    num_writes = sum(response.count(b"\r\ndata:") for response in responses)
    return Round(num_events / seconds, spent / num_events, num_events / num_writes)


def _read_all(port: int, route: str, body: dict[str, object], num_streams: int) -> list[bytes]:
    """Run concurrent streams and return their responses as received, with headers."""

    async def read() -> list[bytes]:
        loop = asyncio.get_running_loop()
        request = _request(route, body)
        clients = [_Client(request, loop.create_future()) for _ in range(num_streams)]
        for client in clients:
            await loop.create_connection(lambda client=client: client, "127.0.0.1", port)
        return [await client.response for client in clients]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(read())


@final
class _Client(asyncio.Protocol):
    """Sends one request and stores the response. It does nothing else, because it runs on the same
    processors as the servers that are measured.
    """

    def __init__(self, request: bytes, response: asyncio.Future[bytes]) -> None:
        self.response = response
        self._request = request
        self._parts: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.response.set_result(b"".join(self._parts))


def _request(route: str, body: dict[str, object]) -> bytes:
    payload = json.dumps(body).encode()
    head = (
        f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length:"
        f" {len(payload)}\r\n"
    )
    return f"{head}Connection: close\r\n\r\n".encode() + payload


def _events(response: bytes) -> list[bytes]:
    """Return the events of a response, without the frames of the chunked encoding."""
    status, _, chunked = response.partition(b"\r\n\r\n")
    if b" 200 " not in status[:20]:
        raise RuntimeError(response[:500].decode(errors="replace"))
    return [line + b"\n\n" for line in chunked.split(b"\n") if line.startswith(b"data:")]


def _serve_bare(recorded: Path, port: int, pause: float) -> None:
    events = [event + b"\n\n" for event in recorded.read_bytes().split(b"\n\n") if event]

    async def send_all() -> AsyncGenerator[bytes, None]:
        for event in events:
            yield event
            # An engine produces one token per step. Without this pause, all events of a stream
            # would be sent in one system call.
            await asyncio.sleep(pause)

    async def response(request: Request) -> StreamingResponse:
        await request.body()
        return StreamingResponse(send_all(), headers=_HEAD)

    app = Starlette(routes=[Route(path, response, methods=["POST"]) for path in _ROUTES])
    options = {
        "loop": "uvloop",
        "http": "httptools",
        "log_config": None,
        "access_log": False,
        "lifespan": "off",
    }
    uvicorn.run(app, host="127.0.0.1", port=port, **options)


@contextlib.contextmanager
def _running(arguments: list[str], port: int) -> Iterator[int]:
    """Run a server. Yields its process id when the port is open."""
    with subprocess.Popen([sys.executable, *arguments], stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + _START_SECONDS
            while not _is_open(port):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"the server did not start: {' '.join(arguments)}")
                time.sleep(0.1)
            yield process.pid
        finally:
            process.terminate()
            process.wait(30)


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
