"""One streamed request over a raw connection. The client must not take the CPU from the server it measures."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

__all__ = ["StreamResult", "stream"]

_DATA = b"data:"
_DONE = b"[DONE]"


@dataclass
class StreamResult:
    """What one stream brought. Times are in seconds since the request was sent; one entry per token event."""

    event_times: list[float] = field(default_factory=list)
    num_tokens: int = 0
    error: str = ""


async def stream(host: str, port: int, path: str, body: dict[str, Any], num_tokens: int, limit: float = 600.0) -> StreamResult:
    """Send `body` and read events to the end. A stream with another number of tokens than asked for is an error."""
    result = StreamResult()
    try:
        async with asyncio.timeout(limit):
            await _read_stream(host, port, path, body, result)
    except (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError) as error:
        result.error = f"{type(error).__name__}: {error}"
    if not result.error and result.num_tokens != num_tokens:
        result.error = f"{result.num_tokens} tokens instead of {num_tokens}"
    return result


async def _read_stream(host: str, port: int, path: str, body: dict[str, Any], result: StreamResult) -> None:
    payload = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
        "Connection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(host, port, limit=1 << 20)
    try:
        started = time.perf_counter()
        writer.write(head.encode() + payload)
        status = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n", 1)[0]
        if b" 200 " not in status + b" ":
            rest = await reader.read(2000)
            result.error = f"{status.decode(errors='replace')}: {rest.decode(errors='replace')[-300:]}"
            return
        # A chunk's frame lines never begin with "data:", so the body can be read line by line without unframing it.
        while line := await reader.readline():
            if line.startswith(_DATA):
                _take_event(line[len(_DATA) :].strip(), time.perf_counter() - started, result)
    finally:
        writer.close()


def _take_event(data: bytes, moment: float, result: StreamResult) -> None:
    if data == _DONE:
        return
    event = json.loads(data)
    if "error" in event:
        result.error = json.dumps(event)[:300]
    elif "token" in event:
        result.num_tokens += 1
        result.event_times.append(moment)
    elif event.get("usage"):
        result.num_tokens = event["usage"]["completion_tokens"]
    elif event.get("choices"):
        result.event_times.append(moment)
