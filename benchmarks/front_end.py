"""Measure the front's own cost: server-sent events per second over the null backend, beside a bare Starlette endpoint.

    python benchmarks/front_end.py [--streams 32] [--tokens 400] [--rounds 5]

Both send the same bytes through the same uvicorn; the bare one lets its streams take turns after each event. A busy machine
spoils wall time, so the share is that of the processor time that each front process spends per event; wall time stands beside.
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
from typing import NamedTuple

import psutil
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from tgi.testing.tiny_models import write_tiny_model

_ROUTES = {  # greedy, both
    "/generate_stream": {"inputs": "hello world", "parameters": {}},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}], "temperature": 0, "stream": True},
}
_CHAT_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
_MODEL_TOKENS = 512
_HEAD = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no"}
_START_SECONDS = 120.0


def main() -> int:
    """Run both, print the table."""
    if sys.argv[1:2] == ["--bare"]:
        _serve_bare(Path(sys.argv[2]), int(sys.argv[3]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for route, body in _ROUTES.items():
            _compare(Path(folder), route, _with_length(body, given.tokens), given.streams, given.rounds)
    return 0


def _with_length(body: dict[str, object], num_tokens: int) -> dict[str, object]:
    if "parameters" in body:
        return body | {"parameters": {"max_new_tokens": num_tokens, "ignore_eos": True}}
    return body | {"max_tokens": num_tokens, "ignore_eos": True}


def _compare(folder: Path, route: str, body: dict[str, object], num_streams: int, num_rounds: int) -> None:
    model, recorded = folder / "model", folder / "events"
    if not model.exists():
        write_tiny_model(model, chat_template=_CHAT_TEMPLATE)
    port, bare_port = _free_port(), _free_port()
    arguments = ["-m", "tgi", "serve", str(model), "--backend", "null", "--port", str(port), "--hostname", "127.0.0.1"]
    with _running([*arguments, "--max-total-tokens", str(_MODEL_TOKENS)], port) as pid:
        recorded.write_bytes(asyncio.run(_read(port, route, body)))
        with _running([__file__, "--bare", str(recorded), str(bare_port)], bare_port) as bare_pid:
            rounds: dict[str, list[Round]] = {"tgi": [], "bare": []}
            # In turns, so that whatever else the machine does falls on both.
            for _ in range(num_rounds + 1):
                rounds["tgi"].append(_measure(pid, port, route, body, num_streams))
                rounds["bare"].append(_measure(bare_pid, bare_port, route, body, num_streams))
    print(f"{route}, {num_streams} streams; the best of {num_rounds} rounds")
    best = {name: Round(max(r.rate for r in of[1:]), min(r.cost for r in of[1:])) for name, of in rounds.items()}
    for name, figures in best.items():
        print(f"  {name:<5} {figures.rate:>9,.0f} events/s   {figures.cost * 1e6:>6.1f} µs of processor time per event")
    share, wall = best["bare"].cost / best["tgi"].cost, best["tgi"].rate / best["bare"].rate
    print(f"  share {share:>9.0%} by processor time, {wall:.0%} by wall time")


class Round(NamedTuple):
    """One round of all streams."""

    rate: float  # events per second
    cost: float  # processor seconds of the front per event


def _measure(pid: int, port: int, route: str, body: dict[str, object], num_streams: int) -> Round:
    process = psutil.Process(pid)
    used, began = sum(process.cpu_times()[:2]), time.perf_counter()
    num_events = asyncio.run(_stream_all(port, route, body, num_streams))
    seconds, spent = time.perf_counter() - began, sum(process.cpu_times()[:2]) - used
    return Round(num_events / seconds, spent / num_events)


async def _stream_all(port: int, route: str, body: dict[str, object], num_streams: int) -> int:
    answers = await asyncio.gather(*(_read(port, route, body) for _ in range(num_streams)))
    return sum(answer.count(b"data:") for answer in answers)


async def _read(port: int, route: str, body: dict[str, object]) -> bytes:
    """The events of one stream, without the frames of the chunked encoding."""
    payload = json.dumps(body).encode()
    head = f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    try:
        writer.write(f"{head}Connection: close\r\n\r\n".encode() + payload)
        answer = await reader.read(-1)
    finally:
        writer.close()
    status, _, chunked = answer.partition(b"\r\n\r\n")
    if b" 200 " not in status[:20]:
        raise RuntimeError(answer[:500].decode(errors="replace"))
    return b"".join(line + b"\n\n" for line in chunked.split(b"\n") if line.startswith(b"data:"))


def _serve_bare(recorded: Path, port: int) -> None:
    events = [event + b"\n\n" for event in recorded.read_bytes().split(b"\n\n") if event]

    async def send_all() -> AsyncGenerator[bytes, None]:
        for event in events:
            yield event
            # Tokens come one step at a time; without this all events of a stream would leave in one system call.
            await asyncio.sleep(0)

    async def answer(request: Request) -> StreamingResponse:
        await request.body()
        return StreamingResponse(send_all(), headers=_HEAD)

    app = Starlette(routes=[Route(path, answer, methods=["POST"]) for path in _ROUTES])
    options = {"loop": "uvloop", "http": "httptools", "log_config": None, "access_log": False, "lifespan": "off"}
    uvicorn.run(app, host="127.0.0.1", port=port, **options)


@contextlib.contextmanager
def _running(arguments: list[str], port: int) -> Iterator[int]:
    """Run a server; yields its process id once the port is open."""
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
