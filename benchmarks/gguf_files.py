"""Serve GGUF files with this server and with llama.cpp, and compare speed and responses.

    python benchmarks/gguf_files.py FILE... --llama-server PROGRAM [--repeats 3] [--output FILE]

For each file, the two servers are started in turns. In each turn, 1 user and then 8 users send the
same number of prompts. The report contains the tokens per second of both servers and the median of
the ratios. For the first file, both servers also respond to six questions without sampling.

The instructions in `peers.py` build the program `llama-server`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from server_process import RunningServer, free_port, running

from tgi.bench import Endpoint, Session, Workload, find_target, learn_tokenizer

_ROUTE = ("/v1/completions",)
_PROMPT_TOKENS, _OUTPUT_TOKENS = 128, 128
_REQUESTS = {1: 4, 8: 24}  # by number of users
_QUESTIONS = (
    "What is the capital of France?",
    "What is 7 times 8?",
    "Name three primary colors.",
    "Write one sentence about the sea.",
    "What does HTTP stand for?",
    "Translate 'good morning' to French.",
)
_RESPONSE_TOKENS = 40


@dataclass(frozen=True)
class Turn:
    """Tokens per second of one server, by number of users."""

    speeds: dict[int, float]


def main() -> int:
    """Measure all files and print the report."""
    arguments = _parse()
    lines = [
        "| file | users | this server, tok/s | llama.cpp, tok/s | ratio |",
        "|---|--:|--:|--:|--:|",
    ]
    responses: list[str] = []
    for number, file in enumerate(arguments.files):
        ours, theirs = [], []
        for repeat in range(arguments.repeats):
            for is_ours in (True, False) if repeat % 2 == 0 else (False, True):
                with _server(arguments, file, is_ours=is_ours) as server:
                    if number == 0 and repeat == 0:
                        responses.append(
                            _responses(server, "this server" if is_ours else "llama.cpp")
                        )
                    turn = Turn({users: _speed(server, users, repeat) for users in _REQUESTS})
                (ours if is_ours else theirs).append(turn)
                print(f"{file.name} {is_ours=} {turn.speeds}", file=sys.stderr)
        for users in _REQUESTS:
            own = [turn.speeds[users] for turn in ours]
            other = [turn.speeds[users] for turn in theirs]
            ratio = median(a / b for a, b in zip(own, other, strict=True))
            lines.append(
                f"| {file.name} | {users} | {median(own):.1f} | {median(other):.1f} | {ratio:.2f} |"
            )
    report = "\n".join([*lines, "", *responses])
    print(report)
    if arguments.output:
        arguments.output.write_text(report + "\n", encoding="utf-8")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--llama-server", required=True, type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def _server(arguments, file: Path, *, is_ours: bool):  # noqa: ANN001, ANN202 - a context manager
    port = free_port()
    place = ["--port", str(port)]
    if is_ours:
        command = [sys.executable, "-m", "tgi", "serve", str(file), "--hostname", "127.0.0.1"]
        command += ["--max-total-tokens", "2048"]
    else:
        threads = str(arguments.threads)
        command = [str(arguments.llama_server), "-m", str(file), "--host", "127.0.0.1"]
        # The context size is the sum over all users.
        command += ["-t", threads, "-np", "8", "-c", "16384", "--alias", "model"]
    log = Path(tempfile.mkdtemp()) / "log"
    return running([*command, *place], port, "/health", log)


def _speed(server: RunningServer, users: int, seed: int) -> float:
    session = asyncio.run(_session(server, 1000 * seed + users))
    session.run(1, 1)
    speed = session.run(users, _REQUESTS[users]).output_tokens_per_second
    assert speed is not None, "no tokens were generated"
    return float(speed)


async def _session(server: RunningServer, seed: int) -> Session:
    endpoint = Endpoint.parse(server.url)
    target = await find_target(endpoint, _ROUTE, model="")
    maker = await learn_tokenizer(endpoint, target.model)
    workload = Workload(_PROMPT_TOKENS, _OUTPUT_TOKENS, 0)
    return Session(target, maker, workload, seed, [server.pid])


def _responses(server: RunningServer, name: str) -> str:
    """Return a table with the number of prompt tokens and the response to each question."""
    rows = [f"Responses of {name}:", "", "| question | prompt tokens | response |", "|---|--:|---|"]
    for question in _QUESTIONS:
        body = {
            "model": "model",
            "messages": [{"role": "user", "content": question}],
            "max_tokens": _RESPONSE_TOKENS,
            "temperature": 0,
        }
        request = urllib.request.Request(
            f"{server.url}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=300) as response:
            value = json.load(response)
        text = " ".join(value["choices"][0]["message"]["content"].split())
        rows.append(f"| {question} | {value['usage']['prompt_tokens']} | {text} |")
    return "\n".join([*rows, ""])


if __name__ == "__main__":
    sys.exit(main())
