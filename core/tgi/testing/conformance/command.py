"""Implements the command `tgi conformance`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from tgi.config import UsageError, check_output_file
from tgi.testing.conformance.check import Result
from tgi.testing.conformance.in_process import ALL_CHECKS, find_backend_under_test
from tgi.testing.conformance.performance import measure
from tgi.testing.conformance.run import run_checks

__all__ = ["run"]

_HELP = """Usage: tgi conformance BACKEND [--json FILE] [--only C-17[,C-18...]]
           [--option NAME=VALUE]... [--performance FILE]

Run the conformance suite on an installed backend, with tiny models that are created on the spot.
Prints a scorecard. --json also writes the scorecard to FILE. --option sets an option of the
backend. --performance also measures the backend on a tiny model and writes the results to FILE
(C-60); the results have no pass mark. The exit status is 1 if a check failed."""


def run(arguments: Sequence[str]) -> int:
    """Run the checks on a backend and print its scorecard. Returns the exit status."""
    if not arguments or any(word in ("-h", "--help") for word in arguments):
        print(_HELP)  # noqa: T201 - output of a command
        return 0
    names, values = _read(arguments)
    for flag in ("--json", "--performance"):
        if flag in values:
            check_output_file(flag, values[flag])
    only = set(values.get("--only", "").split(",")) - {""}
    checks = [check for check in ALL_CHECKS if not only or check.id in only]
    unknown = only - {check.id for check in ALL_CHECKS}
    if unknown:
        raise UsageError(
            f"error: there is no check {', '.join(sorted(unknown))}.",
            "`tgi conformance` without --only runs all checks.",
        )
    console = Console(highlight=False)
    options = dict(item.split("=", 1) for item in values.get("--option", "").split("\n") if item)
    with tempfile.TemporaryDirectory(prefix="tgi-conformance-") as folder:
        under_test = find_backend_under_test(names[0], Path(folder), options)

        def show(result: Result) -> None:
            console.print(
                f"{result.check.id:6} {result.status:15} {result.check.title}",
                markup=False,
                style="dim",
            )

        scorecard = run_checks(under_test, checks, show if console.is_terminal else lambda _: None)
        if "--performance" in values:
            figures = msgspec.json.format(msgspec.json.encode(measure(under_test)), indent=2)
            Path(values["--performance"]).write_bytes(figures + b"\n")
    scorecard.print(console)
    if "--json" in values:
        Path(values["--json"]).write_text(scorecard.to_json(), encoding="utf-8")
    return 1 if scorecard.failed else 0


def _read(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Parse names and options. The values of a repeated option are joined by newlines."""
    names, values, words = list[str](), dict[str, str](), list(arguments)
    while words:
        word = words.pop(0)
        if word in ("--json", "--only", "--option", "--performance"):
            if not words:
                raise UsageError(f"error: `{word}` needs a value.", "See `tgi conformance --help`.")
            value = words.pop(0)
            if word == "--option" and "=" not in value:
                raise UsageError(
                    f"error: `--option {value}`: write NAME=VALUE.", "See `tgi conformance --help`."
                )
            values[word] = (
                f"{values[word]}\n{value}" if word == "--option" and word in values else value
            )
        elif word.startswith("-") or names:
            raise UsageError(
                f"error: unexpected argument '{word}' found.", "See `tgi conformance --help`."
            )
        else:
            names.append(word)
    if not names:
        raise UsageError("error: no backend is named.", "See `tgi conformance --help`.")
    return names, values
