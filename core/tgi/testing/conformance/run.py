"""Runs the checks on one backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from tgi.testing.conformance.apart import ask_apart
from tgi.testing.conformance.backend_under_test import BackendUnderTest
from tgi.testing.conformance.check import Check, Result
from tgi.testing.conformance.in_process import ALL_CHECKS, run_check_here
from tgi.testing.conformance.scorecard import Scorecard

__all__ = ["run_check", "run_checks"]


def run_check(check: Check, under_test: BackendUnderTest) -> Result:
    """Run one check. Any error that the backend raises becomes its result."""
    if not check.apart or under_test.entry_point is None:
        return run_check_here(check, under_test)
    began = time.monotonic()
    outcome = ask_apart(check, under_test)
    return Result(check, outcome.status, outcome.message, time.monotonic() - began)


def run_checks(
    under_test: BackendUnderTest,
    checks: Iterable[Check] = ALL_CHECKS,
    on_result: Callable[[Result], object] = lambda _: None,
) -> Scorecard:
    """Run the checks in order. `on_result` is called with each result."""
    results = []
    for check in checks:
        results.append(run_check(check, under_test))
        on_result(results[-1])
    scorecard = Scorecard.of(under_test, results, len(ALL_CHECKS))
    under_test.discard()
    return scorecard
