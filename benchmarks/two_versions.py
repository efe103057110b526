"""Compare the speed of two checkouts of this repository.

    python benchmarks/two_versions.py FOLDER [--rounds 40] [--model FOLDER] [--only TEXT]

FOLDER is another checkout, for example made with `git worktree add FOLDER COMMIT`. Its packages run
in this environment. The servers of both checkouts run at the same time, and the rounds alternate
between them, so that other load on the machine affects both. The table shows the median, over all
pairs of rounds, of the time of this checkout divided by the time of the other checkout.

The default model is tiny and in float32. The native kernels run a model in bfloat16: name one with
`--model`, for example from `benchmarks/models.py`, and build the kernels of both checkouts with
`python setup.py build_ext --inplace` in `backends/cpu`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from server_process import RunningServer, free_port, running

from tgi.bench import trees
from tgi.testing.tiny_models import write_tiny_model

_HERE = Path(__file__).parents[1]
_CHAT_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
_MAX_TOTAL_TOKENS = 4096
_VERSION = "4.0.0.dev0"
_NUM_STARTS = 9
_SCHEDULER_ROUNDS = 9


class Case(NamedTuple):
    """Requests that are sent at the same time."""

    name: str
    backend: str
    route: str
    body: Mapping[str, object]
    num_streams: int


class Cost(NamedTuple):
    """The cost of one round, in seconds."""

    wall: float
    processor: float


def _generate(num_tokens: int, **parameters: object) -> dict[str, object]:
    fixed = {"max_new_tokens": num_tokens, "ignore_eos": True}
    return {"inputs": "hello world", "parameters": fixed | parameters}


def _chat(num_tokens: int, *, stream: bool) -> dict[str, object]:
    return {
        "messages": [{"role": "user", "content": "hello there"}],
        "temperature": 0,
        "max_tokens": num_tokens,
        "ignore_eos": True,
        "stream": stream,
    }


_SAMPLED = {"do_sample": True, "temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": 1}
CASES = (
    Case("front end, 1 stream", "null", "/generate_stream", _generate(2000), 1),
    Case("front end, 16 streams", "null", "/generate_stream", _generate(2000), 16),
    Case("front end, 16 chats", "null", "/v1/chat/completions", _chat(2000, stream=True), 16),
    Case("front end, 8 short requests", "null", "/generate", _generate(1), 8),
    Case("front end, 8 short chats", "null", "/v1/chat/completions", _chat(1, stream=False), 8),
    Case("model on the CPU, 1 stream", "cpu", "/generate_stream", _generate(300), 1),
    Case("model on the CPU, 8 streams", "cpu", "/generate_stream", _generate(150), 8),
    Case("model on the CPU, 4 sampled", "cpu", "/generate_stream", _generate(100, **_SAMPLED), 4),
)


def main() -> int:
    """Measure all cases and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--model", type=Path, help="folder of the served model")
    parser.add_argument("--only", default="", help="only servers' cases whose names contain this")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        if arguments.model is None:
            write_tiny_model(work / "model", chat_template=_CHAT_TEMPLATE)
        else:
            (work / "model").symlink_to(arguments.model.resolve())
        cases = [case for case in CASES if arguments.only in case.name]
        others = _environment(arguments.folder.resolve(), work / "other")
        ours = _environment(_HERE, work / "ours")
        print("| case | wall time | processor time | of the other checkout |\n|---|--:|--:|--:|")
        _compare_schedulers(arguments.folder.resolve(), others, ours)
        for backend in sorted({case.backend for case in cases}, reverse=True):
            own_cases = [case for case in cases if case.backend == backend]
            _compare_servers(own_cases, work, others, ours, arguments.rounds)
        _compare_starts(work, others, ours)
    return 0


def _environment(checkout: Path, metadata: Path) -> dict[str, str]:
    """Return variables with which Python imports the packages of `checkout`, with the entry points
    of its project files.
    """
    paths = [checkout / "core"]
    for project in (checkout / "pyproject.toml", *checkout.glob("backends/*/pyproject.toml")):
        if project.parent != checkout:
            paths.append(project.parent)
        table = tomllib.loads(project.read_text())["project"]
        folder = metadata / f"{table['name'].replace('-', '_')}-{_VERSION}.dist-info"
        folder.mkdir(parents=True)
        head = f"Metadata-Version: 2.1\nName: {table['name']}\nVersion: {_VERSION}\n"
        (folder / "METADATA").write_text(head)
        groups = table.get("entry-points", {}).items()
        lines = [
            line
            for group, entries in groups
            for line in (f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()))
        ]
        (folder / "entry_points.txt").write_text("\n".join(lines))
    return {"PYTHONPATH": os.pathsep.join(map(str, [metadata, *paths]))}


@contextlib.contextmanager
def _server(backend: str, work: Path, environment: Mapping[str, str]) -> Iterator[RunningServer]:
    port = free_port()
    command = [sys.executable, "-m", "tgi", "serve", str(work / "model"), "--backend", backend]
    command += ["--hostname", "127.0.0.1", "--port", str(port)]
    command += ["--max-total-tokens", str(_MAX_TOTAL_TOKENS)]
    with running(command, port, "/health", work / f"{port}.log", environment) as server:
        yield server


def _compare_servers(
    cases: Sequence[Case],
    work: Path,
    others: Mapping[str, str],
    ours: Mapping[str, str],
    num_rounds: int,
) -> None:
    """Measure cases of the same backend."""
    backend = cases[0].backend
    with _server(backend, work, others) as other, _server(backend, work, ours) as own:
        for case in cases:
            pairs = _alternate(
                num_rounds, lambda c=case: _run(other, c), lambda c=case: _run(own, c)
            )
            _print(case.name, pairs)


def _alternate(
    num_rounds: int, other: Callable[[], Cost], own: Callable[[], Cost]
) -> list[tuple[Cost, Cost]]:
    """Return the costs of both, round by round, without the first round. The order changes in every
    round.
    """
    pairs = []
    for number in range(num_rounds + 1):
        if number % 2:
            first = other()
            pairs.append((first, own()))
        else:
            second = own()
            pairs.append((other(), second))
    return pairs[1:]


def _run(server: RunningServer, case: Case) -> Cost:
    body = json.dumps(case.body).encode()
    used, began = _processor_seconds(server.pid), time.perf_counter()
    threads = [
        threading.Thread(target=_post, args=(server.url + case.route, body))
        for _ in range(case.num_streams)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Cost(time.perf_counter() - began, _processor_seconds(server.pid) - used)


def _post(url: str, body: bytes) -> None:
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as response:
        response.read()


def _processor_seconds(pid: int) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in trees([pid]))


def _compare_schedulers(folder: Path, others: Mapping[str, str], ours: Mapping[str, str]) -> None:
    costs = _alternate(
        _SCHEDULER_ROUNDS,
        lambda: _scheduler_cost(folder, others),
        lambda: _scheduler_cost(_HERE, ours),
    )
    _print("scheduler, 64 sequences", costs)


def _scheduler_cost(checkout: Path, environment: Mapping[str, str]) -> Cost:
    script = checkout / "benchmarks" / "scheduler.py"
    command = [sys.executable, str(script), "--sequences", "64", "--steps", "400"]
    result = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    milliseconds = float(result.stdout.splitlines()[-1].split()[3])
    return Cost(milliseconds / 1e3, 0.0)


def _compare_starts(work: Path, others: Mapping[str, str], ours: Mapping[str, str]) -> None:
    """Compare the times until a new server has sent its first response."""

    def start(environment: Mapping[str, str]) -> Cost:
        began = time.perf_counter()
        with _server("cpu", work, environment) as server:
            _post(f"{server.url}/generate", json.dumps(_generate(1)).encode())
            return Cost(time.perf_counter() - began, _processor_seconds(server.pid))

    _print("first response", _alternate(_NUM_STARTS, lambda: start(others), lambda: start(ours)))


def _print(name: str, pairs: list[tuple[Cost, Cost]]) -> None:
    wall = median(own.wall / other.wall for other, own in pairs)
    used = [own.processor / other.processor for other, own in pairs if other.processor > 0]
    processor = f"{median(used):.2f}" if used else ""
    milliseconds = median(other.wall for other, _ in pairs) * 1e3
    print(f"| {name} | {wall:.2f} | {processor} | {milliseconds:.1f} ms |", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
