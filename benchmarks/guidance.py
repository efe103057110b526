"""Measure the cost of grammars: 8 streams with a JSON schema beside 8 streams without.

    python benchmarks/guidance.py --model FOLDER [--rounds 10] [--backend cpu]

Two kinds of rounds alternate on one server. In a plain round all 16 streams are unconstrained. In a
mixed round 8 of them are constrained. The table shows, as the median over all pairs of rounds:

* the 99th percentile of the time between two tokens of the 8 streams that are never constrained,
  in the mixed round divided by the plain round
* the tokens per second of the other 8 streams, constrained divided by unconstrained
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

from server_process import free_port, running

_NUM_STREAMS = 8
_SCHEMA = {
    "type": "object",
    "properties": {
        "people": {
            "type": "array",
            "minItems": 100,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 20},
                    "age": {"type": "integer", "minimum": 0, "maximum": 120},
                    "city": {"enum": ["Vienna", "Oslo", "Lisbon", "Prague"]},
                    "is_member": {"type": "boolean"},
                },
                "required": ["name", "age", "city", "is_member"],
            },
        }
    },
    "required": ["people"],
}


class Round(NamedTuple):
    """The 99th percentile of the gaps of the plain streams in seconds, and the tokens per second of
    the other streams.
    """

    gap: float
    rate: float


class _Stream(threading.Thread):
    """Reads one stream and records the time of each event."""

    def __init__(self, url: str, number: int, num_tokens: int, *, is_constrained: bool) -> None:
        super().__init__()
        parameters: dict[str, Any] = {"max_new_tokens": num_tokens, "ignore_eos": True}
        if is_constrained:
            parameters["grammar"] = {"type": "json", "value": _SCHEMA}
        body = {"inputs": f"List {number} people as JSON:", "parameters": parameters}
        self._request = urllib.request.Request(
            f"{url}/generate_stream",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        self.times: list[float] = []

    def run(self) -> None:
        """Read all events."""
        with urllib.request.urlopen(self._request) as response:
            for line in response:
                if line.startswith(b"data:"):
                    if b'"error"' in line:
                        raise RuntimeError(line.decode())
                    self.times.append(time.perf_counter())

    @property
    def gaps(self) -> list[float]:
        """The times between two tokens, in seconds."""
        return [end - begin for begin, end in zip(self.times, self.times[1:], strict=False)]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=96)
    arguments = parser.parse_args()
    port = free_port()
    command = [sys.executable, "-m", "tgi", "serve", str(arguments.model)]
    command += ["--backend", arguments.backend, "--hostname", "127.0.0.1", "--port", str(port)]
    with (
        tempfile.TemporaryDirectory() as folder,
        running(command, port, "/health", Path(folder) / "log") as server,
    ):
        pairs = []
        for number in range(arguments.rounds + 1):
            order = (False, True) if number % 2 else (True, False)
            results = {mixed: _round(server.url, arguments.tokens, mixed) for mixed in order}
            pairs.append((results[False], results[True]))
    gaps = [mixed.gap / plain.gap for plain, mixed in pairs[1:]]
    rates = [mixed.rate / plain.rate for plain, mixed in pairs[1:]]
    print("| measured | ratio | plain | mixed |\n|---|--:|--:|--:|")
    plain, mixed = (median(pair[i].gap for pair in pairs[1:]) * 1e3 for i in (0, 1))
    print(f"| p99 between tokens of other streams | {median(gaps):.2f} | {plain:.1f} ms |", end="")
    print(f" {mixed:.1f} ms |")
    plain, mixed = (median(pair[i].rate for pair in pairs[1:]) for i in (0, 1))
    print(f"| tokens per second of 8 streams | {median(rates):.2f} | {plain:.0f} | {mixed:.0f} |")
    return 0


def _round(url: str, num_tokens: int, is_mixed: bool) -> Round:
    plain = [_Stream(url, i, num_tokens, is_constrained=False) for i in range(_NUM_STREAMS)]
    others = [_Stream(url, 9 + i, num_tokens, is_constrained=is_mixed) for i in range(_NUM_STREAMS)]
    began = time.perf_counter()
    for stream in plain + others:
        stream.start()
    for stream in plain + others:
        stream.join()
    ended = max(stream.times[-1] for stream in others)
    gaps = sorted(gap for stream in plain for gap in stream.gaps)
    num_generated = sum(len(stream.times) for stream in others)
    return Round(quantiles(gaps, n=100)[98], num_generated / (ended - began))


if __name__ == "__main__":
    sys.exit(main())
