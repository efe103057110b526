"""Runs one check in a separate process. The last line that the process prints is the result in
JSON.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Literal

import msgspec

from tgi.testing.conformance.backend_under_test import BackendUnderTest
from tgi.testing.conformance.check import Check
from tgi.testing.conformance.in_process import ALL_CHECKS, find_backend_under_test, run_check_here

__all__ = ["Outcome", "ask_apart", "main"]

_TIMEOUT_SECONDS = 600.0
_CHILD = "import sys; from tgi.testing.conformance.apart import main; main(*sys.argv[1:])"


class Outcome(msgspec.Struct, frozen=True):
    """The result of the check in the other process."""

    status: Literal["passed", "failed", "not applicable"]
    message: str


def ask_apart(check: Check, under_test: BackendUnderTest) -> Outcome:
    """Run a check of an installed backend. The check fails if its process crashes or hangs."""
    folder = under_test.folder / f"apart-{check.id}"
    folder.mkdir(exist_ok=True)
    options = msgspec.json.encode(under_test.options).decode()
    command = [sys.executable, "-c", _CHILD, under_test.name, check.id, str(folder), options]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Outcome("failed", f"the check did not end within {_TIMEOUT_SECONDS:.0f} s")
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        return Outcome(
            "failed",
            f"the process ended with status {done.returncode}: {done.stderr.strip()[-500:]}",
        )
    return msgspec.json.decode(lines[-1], type=Outcome)


def main(name: str, check_id: str, folder: str, options: str) -> None:
    """Run the check in this process and print its result."""
    check = next(check for check in ALL_CHECKS if check.id == check_id)
    under_test = find_backend_under_test(
        name, Path(folder), msgspec.json.decode(options, type=dict[str, str])
    )
    result = run_check_here(check, under_test)
    under_test.discard()
    print(msgspec.json.encode(Outcome(result.status, result.message)).decode(), flush=True)  # noqa: T201 - to the parent
