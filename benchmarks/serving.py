"""Measure a server: output tokens per second, time to first token and inter-token latency for several numbers of users.

    python benchmarks/serving.py                                  starts `tgi serve` on the demo model
    python benchmarks/serving.py --model FOLDER --users 1 8 32    starts it on a model
    python benchmarks/serving.py --url http://127.0.0.1:3000      measures a server that runs

Each user sends one request after another. A run with a failed request is marked invalid. The report says what else used the
processor meanwhile, since that spoils figures unseen.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from http_stream import StreamResult, stream
from rich.console import Console
from rich.table import Table

_ROUTES = ("/generate_stream", "/v1/completions")
_WORDS = ("time", "year", "people", "way", "day", "man", "thing", "life", "child", "world", "school", "state", "group", "country")
_START_LIMIT = 900.0


def main() -> int:
    """Run, print the table, write the JSON. Returns 1 if any request failed."""
    arguments = _parse()
    with _server(arguments) as url:
        runs: list[dict[str, Any]] = []
        report = {"environment": _environment(url), "settings": vars(arguments) | {"url": url}, "runs": runs}
        _measure(url, arguments, 1, arguments.routes[0], num_requests=2)  # warm: caches, lazily made things
        for route in arguments.routes:
            for num_users in arguments.users:
                run = _measure(url, arguments, num_users, route, max(num_users * arguments.rounds, arguments.rounds))
                runs.append(run)
                print(f"{route}, {num_users} users: {run['output_tokens_per_second']} tok/s", file=sys.stderr)
    Path(arguments.output).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _print(runs)
    return 0 if all(run["valid"] for run in runs) else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="server to measure; without it one is started")
    parser.add_argument("--model", default="", help="model of the server that is started; default the demo")
    parser.add_argument("--serve-args", default="", help="more options of that server, separated by spaces")
    parser.add_argument("--users", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--routes", nargs="+", choices=_ROUTES, default=list(_ROUTES))
    parser.add_argument("--rounds", type=int, default=3, help="requests per user")
    parser.add_argument("--prompt-words", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="of the prompts")
    parser.add_argument("--output", default="benchmark.json")
    return parser.parse_args()


def _measure(url: str, arguments: argparse.Namespace, num_users: int, route: str, num_requests: int) -> dict[str, Any]:
    """One run: figures over all its streams."""
    busy, own = _busy_seconds(), _own_seconds(url)
    started = time.perf_counter()
    results = asyncio.run(_users(url, arguments, num_users, route, num_requests))
    seconds = time.perf_counter() - started
    foreign = (_busy_seconds() - busy) - (_own_seconds(url) - own)
    failures = [result.error for result in results if result.error]
    good = [result for result in results if not result.error]
    firsts = [result.event_times[0] for result in good if result.event_times]
    gaps = [late - early for result in good for early, late in zip(result.event_times, result.event_times[1:], strict=False)]
    return {
        "route": route,
        "users": num_users,
        "requests": num_requests,
        "failures": failures[:5],
        "num_failures": len(failures),
        "valid": not failures and bool(firsts),
        "seconds": round(seconds, 3),
        "output_tokens_per_second": round(sum(result.num_tokens for result in good) / seconds, 2),
        "ttft_ms": _percentiles(firsts),
        "inter_token_ms": _percentiles(gaps),
        "foreign_cpus": round(max(0.0, foreign) / seconds, 2),
    }


async def _users(url: str, arguments: argparse.Namespace, num_users: int, route: str, num_requests: int) -> list[StreamResult]:
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    rng = random.Random(f"{arguments.seed}/{route}/{num_users}")
    bodies = [_body(route, rng, arguments) for _ in range(num_requests)]
    results: list[StreamResult] = []

    async def user() -> None:
        while bodies:
            results.append(await stream(host, port, route, bodies.pop(), arguments.output_tokens))

    await asyncio.gather(*(user() for _ in range(num_users)))
    return results


def _body(route: str, rng: random.Random, arguments: argparse.Namespace) -> dict[str, Any]:
    prompt = " ".join(rng.choices(_WORDS, k=arguments.prompt_words))
    if route == "/generate_stream":
        return {"inputs": prompt, "parameters": {"max_new_tokens": arguments.output_tokens, "ignore_eos": True}}
    return {
        "model": "tgi",
        "prompt": prompt,
        "max_tokens": arguments.output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@contextlib.contextmanager
def _server(arguments: argparse.Namespace) -> Iterator[str]:
    if arguments.url:
        yield arguments.url
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    model = [arguments.model] if arguments.model else []
    command = [sys.executable, "-m", "tgi", "serve", *model, "--hostname", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command + arguments.serve_args.split())
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_ready(url, process)
        yield url
    finally:
        process.terminate()
        process.wait()


def _wait_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + _START_LIMIT
    while time.monotonic() < limit:
        if process.poll() is not None:
            sys.exit(f"The server ended with status {process.returncode} before it was ready.")
        with contextlib.suppress(urllib.error.URLError, ConnectionError), urllib.request.urlopen(f"{url}/health"):
            return
        time.sleep(0.1)
    sys.exit(f"The server was not ready after {_START_LIMIT:.0f} s.")


def _environment(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/info") as answer:
        info = json.load(answer)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "server": {key: info.get(key) for key in ("model_id", "version", "max_total_tokens")},
        "packages": {name: _version(name) for name in ("tgi", "torch", "numpy", "uvicorn")},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _busy_seconds() -> float:
    """CPU seconds that the whole machine worked so far."""
    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice)


def _own_seconds(url: str) -> float:
    """CPU seconds of this process and of the server, if it listens on this machine."""
    port = urlsplit(url).port or 80
    owners = {c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == port and c.pid}
    processes = [psutil.Process()]
    for pid in owners:
        server = psutil.Process(pid)
        processes += [server, *server.children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def _percentiles(seconds: list[float]) -> dict[str, float | None]:
    if len(seconds) < 2:
        only = round(seconds[0] * 1e3, 2) if seconds else None
        return {"p50": only, "p95": only}
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    return {"p50": round(cuts[9] * 1e3, 2), "p95": round(cuts[18] * 1e3, 2)}


def _print(runs: list[dict[str, Any]]) -> None:
    table = Table("route", "users", "tok/s", "TTFT p50", "p95", "inter-token p50", "p95", "failed", "foreign CPUs")
    for run in runs:
        first, gap = run["ttft_ms"], run["inter_token_ms"]
        cells = [run["users"], run["output_tokens_per_second"], first["p50"], first["p95"], gap["p50"], gap["p95"]]
        valid = str(run["num_failures"]) if run["valid"] else f"{run['num_failures']} INVALID"
        table.add_row(run["route"], *map(str, cells), valid, str(run["foreign_cpus"]))
    Console().print(table, "Times in ms.", *(f"failure: {text}" for run in runs for text in run["failures"]), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
