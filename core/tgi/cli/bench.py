"""`tgi bench`: latencies and throughput of a running server, over its own streaming route."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final
from urllib.parse import urlsplit

from tgi.config import UsageError
from tgi.errors import ConfigError

__all__ = ["run"]

_BATCH_SIZES = (1, 2, 4, 8, 16, 32)
_QUANTILES = (0.5, 0.9, 0.99)
_PROMPT_WORD = "benchmark "
_HTTP_PORT = 80
_SAMPLING = ("temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "frequency_penalty", "top_n_tokens")


@final
@dataclass(frozen=True)
class StreamTimes:
    """Moments of one stream, in seconds."""

    prefill: float  # request sent to first token
    decode: float  # first to last token
    num_tokens: int

    @property
    def per_token(self) -> float:
        """Time between two tokens."""
        return self.decode / max(1, self.num_tokens - 1)


def run(arguments: Sequence[str]) -> int:
    """Run the benchmark and print its tables. Raises `ConfigError` if the server does not answer as it should."""
    given = _parser().parse_args(list(arguments))
    target = urlsplit(given.url)
    if target.scheme != "http" or not target.hostname:
        raise UsageError(f"error: invalid value '{given.url}' for '--url'; it must be like http://127.0.0.1:3000.")
    body = json.dumps({"inputs": _PROMPT_WORD * given.sequence_length, "parameters": _parameters(given)}).encode()
    steps: dict[int, list[list[StreamTimes]]] = {}
    for size in given.batch_size or _BATCH_SIZES:
        for number in range(given.warmups + given.runs):
            try:
                times = asyncio.run(_run_batch(target.hostname, target.port or _HTTP_PORT, body, size))
            except (OSError, ValueError, asyncio.IncompleteReadError) as error:
                raise ConfigError(
                    f"The server at {given.url} gave no stream: {error}", "Start it, or name it with `--url`."
                ) from error
            if number >= given.warmups:
                steps.setdefault(size, []).append(times)
    print(_table("Latency (ms)", _latency_rows(steps)))
    print()
    print(_table("Throughput (tokens/s)", _throughput_rows(steps, given.sequence_length)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "tgi bench", description="Measure prefill and decode of a running server.", allow_abbrev=False
    )
    parser.add_argument("--url", default="http://127.0.0.1:3000", help="address of the server (%(default)s)")
    parser.add_argument("-b", "--batch-size", type=int, action="append", help="streams at a time; repeatable (1 to 32)")
    parser.add_argument("-s", "--sequence-length", type=int, default=10, help="tokens of the prompt (%(default)s)")
    parser.add_argument("-d", "--decode-length", type=int, default=8, help="tokens to generate (%(default)s)")
    parser.add_argument("-r", "--runs", type=int, default=10, help="measured runs per batch size (%(default)s)")
    parser.add_argument("-w", "--warmups", type=int, default=1, help="runs before them (%(default)s)")
    for name in _SAMPLING:
        kind = int if name in ("top_k", "top_n_tokens") else float
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"`{name}` of the requests")
    parser.add_argument("--do-sample", action="store_true", help="sample instead of taking the likeliest token")
    parser.add_argument("--watermark", action="store_true", help="mark the text")
    return parser


def _parameters(given: argparse.Namespace) -> dict[str, Any]:
    sampling = {name: getattr(given, name) for name in _SAMPLING if getattr(given, name) is not None}
    flags = {name: True for name in ("do_sample", "watermark") if getattr(given, name)}
    # Exactly as many prompt tokens as asked for, and no early end.
    lengths = {"max_new_tokens": given.decode_length, "truncate": given.sequence_length, "ignore_eos": True}
    return lengths | sampling | flags


async def _run_batch(host: str, port: int, body: bytes, size: int) -> list[StreamTimes]:
    return await asyncio.gather(*(_stream(host, port, body) for _ in range(size)))


async def _stream(host: str, port: int, body: bytes) -> StreamTimes:
    head = (
        f"POST /generate_stream HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(host, port)
    try:
        sent = time.perf_counter()
        writer.write(head.encode() + body)
        status = await reader.readline()
        if b" 200 " not in status:
            rest = await reader.read()
            raise ValueError(f"{status.decode(errors='replace').strip()} {rest[-300:].decode(errors='replace')}")
        moments = []
        while line := await reader.readline():
            if line.startswith(b"data:"):
                event: Mapping[str, Any] = json.loads(line[5:])
                if "error" in event:
                    raise ValueError(str(event["error"]))
                moments.append(time.perf_counter())
    finally:
        writer.close()
    if not moments:
        raise ValueError("a stream without a token")
    return StreamTimes(moments[0] - sent, moments[-1] - moments[0], len(moments))


def _latency_rows(steps: Mapping[int, Sequence[Sequence[StreamTimes]]]) -> list[tuple[str, int, list[float]]]:
    """Milliseconds per stream."""
    streams = {size: [stream for times in runs for stream in times] for size, runs in steps.items()}
    return [
        *(("Prefill", size, [1000 * s.prefill for s in found]) for size, found in streams.items()),
        *(("Decode (token)", size, [1000 * s.per_token for s in found]) for size, found in streams.items()),
        *(("Decode (total)", size, [1000 * s.decode for s in found]) for size, found in streams.items()),
    ]


def _throughput_rows(
    steps: Mapping[int, Sequence[Sequence[StreamTimes]]], num_prompt_tokens: int
) -> list[tuple[str, int, list[float]]]:
    """Tokens per second of a whole batch."""
    rows = []
    for size, runs in steps.items():
        rows.append(("Prefill", size, [size * num_prompt_tokens / max(t.prefill for t in times) for times in runs]))
    for size, runs in steps.items():
        decoded = [(sum(t.num_tokens - 1 for t in times), max(t.decode for t in times)) for times in runs]
        rows.append(("Decode", size, [count / seconds if seconds else 0.0 for count, seconds in decoded]))
    return rows


def _table(title: str, rows: Sequence[tuple[str, int, Sequence[float]]]) -> str:
    """A table in Markdown."""
    lines = [["Step", "Batch size", "Average", "Lowest", "Highest", *(f"p{quantile * 100:.0f}" for quantile in _QUANTILES)]]
    for label, size, values in rows:
        ordered = sorted(values)
        quantiles = (ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] for quantile in _QUANTILES)
        numbers = (statistics.fmean(ordered), ordered[0], ordered[-1], *quantiles)
        lines.append([label, str(size), *(f"{number:.2f}" for number in numbers)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    shown = ("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines)
    return "\n".join([f"{title}\n", *shown])
