"""Implements `tgi bench`, which measures the latency and throughput of a running server."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from tgi.bench import (
    ROUTES,
    Endpoint,
    Panel,
    Progress,
    PromptMaker,
    RunSummary,
    Session,
    Target,
    Workload,
    csv_report,
    find_target,
    json_report,
    learn_tokenizer,
    listeners,
    markdown_table,
    svg_plot,
)
from tgi.bench.live_table import LiveTable
from tgi.config import UsageError, check_output_file

__all__ = ["run"]

_URL = "http://127.0.0.1:3000"
_USERS = (1, 2, 4, 8, 16, 32)
_SAMPLING = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "typical_p": float,
    "repetition_penalty": float,
    "frequency_penalty": float,
    "top_n_tokens": int,
}
_NATIVE_ONLY = ("typical_p", "top_n_tokens", "do_sample", "watermark")
_DESCRIPTION = """Measure the time to first token, the inter-token latency and the throughput of a
running server. The server must have a streaming route of TGI or OpenAI. By default the load is a
concurrency sweep: in each run, a number of users each send one request after another. A run with a
failed request is invalid, and the exit code is then 1."""


def run(arguments: Sequence[str]) -> int:
    """Measure, print the results and write the reports. Returns 1 if a run was invalid. Raises
    `ConfigError` if the server cannot be measured.
    """
    options = _parser().parse_args(list(arguments))
    url = options.url if options.address is None else options.address
    _check(options, url)
    for flag, path, suffix in (
        ("--json", options.json, ""),
        ("--csv", options.csv, ""),
        ("--plot", options.plot, ".svg"),
    ):
        if path:
            check_output_file(flag, path, suffix)
    target, maker = asyncio.run(_prepare(options, url))
    steps = [(1, rate) for rate in options.rate] or [
        (users, None) for users in options.users or _USERS
    ]
    settings = _settings(options, url, target, maker)
    runs = _measure(
        options,
        Session(target, maker, _workload(options), options.seed, listeners(url)),
        steps,
        f"{url}{target.route}",
    )
    for run_ in runs:
        for failure in run_.failures:
            print(f"failure with {run_.label} users: {failure}", file=sys.stderr)
    for path, text in _reports(options, runs, settings):
        Path(path).write_bytes(text)
    return 0 if all(run_.valid for run_ in runs) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("tgi bench", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument(
        "address", nargs="?", metavar="URL", help=f"address of the server (default: {_URL})"
    )
    parser.add_argument("--url", default=_URL, help=argparse.SUPPRESS)
    parser.add_argument(
        "--route", choices=ROUTES, help="route to measure (default: the first that streams)"
    )
    parser.add_argument(
        "--model",
        default="",
        help="name of the model in the requests (default: the first model that the server lists)",
    )
    parser.add_argument("--api-key", help="API key, sent as `Authorization: Bearer`")
    _add_load(parser.add_argument_group("load"))
    _add_sampling(parser.add_argument_group("sampling (default: greedy)"))
    _add_output(parser.add_argument_group("output"))
    return parser


def _add_load(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-u",
        "-b",
        "--users",
        "--batch-size",
        type=_counts,
        action="extend",
        metavar="N",
        help="numbers of users, separated by commas; can be repeated (default: 1,2,4,8,16,32)",
    )
    group.add_argument(
        "--rate",
        type=float,
        action="append",
        default=[],
        help="requests per second; replaces the users by an open-loop load; can be repeated",
    )
    for flags, default, meaning in (
        (("-r", "--rounds", "--runs"), 3, "requests per user, or seconds with `--rate`"),
        (("-w", "--warmups"), 1, "requests before the first run"),
        (("-s", "--prompt-tokens", "--sequence-length"), 128, "prompt tokens per request"),
        (("-d", "--output-tokens", "--decode-length"), 64, "output tokens per request"),
        (("--shared-tokens",), 0, "length of the prefix that all prompts share, in tokens"),
        (("--seed",), 0, "seed of the prompts"),
    ):
        group.add_argument(
            *flags, type=int, default=default, help=f"{meaning} (default: %(default)s)"
        )


def _add_sampling(group: argparse._ArgumentGroup) -> None:
    for name, kind in _SAMPLING.items():
        group.add_argument(
            f"--{name.replace('_', '-')}", type=kind, help=f"value of `{name}` in the requests"
        )
    group.add_argument(
        "--do-sample", action="store_true", help="sample tokens; for TGI's route only"
    )
    group.add_argument(
        "--watermark", action="store_true", help="watermark the text; for TGI's route only"
    )


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--json", metavar="FILE", help="write all results to FILE")
    group.add_argument("--csv", metavar="FILE", help="write one line per run to FILE")
    group.add_argument("--plot", metavar="FILE", help="write a diagram (SVG) to FILE")
    group.add_argument(
        "--no-tui",
        action="store_true",
        help="print a Markdown table at the end instead of a live table",
    )


def _counts(text: str) -> list[int]:
    """Parse numbers such as `1,2,4`. The error messages of argparse contain the name of this
    function.
    """
    return [int(part) for part in text.split(",")]


def _check(options: argparse.Namespace, url: str) -> None:
    try:
        Endpoint.parse(url)
    except ValueError as error:
        raise UsageError(f"error: invalid value for the address: {error}.") from error
    least = {"prompt_tokens": 1, "output_tokens": 1, "rounds": 1, "warmups": 0, "shared_tokens": 0}
    for name, limit in least.items():
        if getattr(options, name) < limit:
            raise UsageError(
                f"error: `--{name.replace('_', '-')}` must be >= {limit}. Given:"
                f" {getattr(options, name)}."
            )
    if any(users < 1 for users in options.users or ()):
        raise UsageError(f"error: `--users` must be >= 1. Given: {min(options.users)}.")
    if any(rate <= 0 for rate in options.rate):
        raise UsageError(f"error: `--rate` must be > 0. Given: {min(options.rate):g}.")
    if options.rate and options.users:
        raise UsageError(
            "error: `--users` and `--rate` cannot be combined: a closed-loop load has users, an"
            " open-loop load has a rate."
        )
    if options.shared_tokens >= options.prompt_tokens:
        raise UsageError(
            f"error: `--shared-tokens` must be < `--prompt-tokens`({options.prompt_tokens}). Given:"
            f" {options.shared_tokens}."
        )


async def _prepare(options: argparse.Namespace, url: str) -> tuple[Target, PromptMaker]:
    headers = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    endpoint = Endpoint.parse(url, headers)
    sampling: dict[str, Any] = {
        name: getattr(options, name) for name in _SAMPLING if getattr(options, name) is not None
    }
    sampling |= {name: True for name in ("do_sample", "watermark") if getattr(options, name)}
    routes = (options.route,) if options.route else ROUTES
    if any(name in sampling for name in _NATIVE_ONLY):
        routes = ROUTES[:1]
    target = await find_target(endpoint, routes, sampling, options.model)
    return target, await learn_tokenizer(endpoint, target.model)


def _workload(options: argparse.Namespace) -> Workload:
    return Workload(options.prompt_tokens, options.output_tokens, options.shared_tokens)


def _measure(
    options: argparse.Namespace,
    session: Session,
    steps: Sequence[tuple[int, float | None]],
    title: str,
) -> list[RunSummary]:
    runs = []
    with ExitStack() as stack:
        is_live = sys.stdout.isatty() and not options.no_tui
        table = stack.enter_context(LiveTable(title, Console())) if is_live else None
        if options.warmups:
            session.run(1, options.warmups)
        for users, rate in steps:
            num_requests = max(1, round(options.rounds * (users if rate is None else rate)))
            label = f"{users} user{'s' * (users > 1)}" if rate is None else f"{rate:g} requests/s"
            watch: Callable[[Progress], None] | None = (
                None if table is None else table.watch(label, num_requests)
            )
            summary = session.run(users, num_requests, rate, watch)
            runs.append(summary)
            if table is None:
                print(f"{label}: {summary.output_tokens_per_second:.1f} tok/s", file=sys.stderr)
            else:
                table.add(summary)
    if not is_live:
        print(f"{markdown_table(runs)}\n\nTimes in ms. {title}")
    return runs


def _settings(
    options: argparse.Namespace, url: str, target: Target, maker: PromptMaker
) -> dict[str, Any]:
    hidden = ("address", "api_key", "url")
    return {name: value for name, value in vars(options).items() if name not in hidden} | {
        "url": url,
        "route": target.route,
        "model": target.model,
        "ignore_eos": target.can_ignore_eos,
        "prompt_lengths": (
            "exact, by /tokenize"
            if maker.is_exact
            else f"{maker.tokens_per_word:.2f} tokens per word"
        ),
    }


def _reports(
    options: argparse.Namespace, runs: Sequence[RunSummary], settings: dict[str, Any]
) -> list[tuple[str, bytes]]:
    reports = []
    if options.json:
        reports.append((options.json, json_report(runs, settings)))
    if options.csv:
        reports.append((options.csv, csv_report(runs).encode()))
    if options.plot:
        reports.append((options.plot, _plot(runs, settings["url"]).encode()))
    return reports


def _plot(runs: Sequence[RunSummary], title: str) -> str:
    places = [run_.label for run_ in runs]
    ttft, gaps = [run_.ttft_ms for run_ in runs], [run_.inter_token_ms for run_ in runs]
    return svg_plot(
        title,
        [
            Panel(
                "output tokens per second",
                places,
                {"throughput": [r.output_tokens_per_second for r in runs]},
                "users",
            ),
            Panel(
                "time to first token, ms",
                places,
                {"p50": [t and t.p50 for t in ttft], "p95": [t and t.p95 for t in ttft]},
                "users",
            ),
            Panel(
                "inter-token latency, ms",
                places,
                {"p50": [t and t.p50 for t in gaps], "p95": [t and t.p95 for t in gaps]},
                "users",
            ),
        ],
    )
