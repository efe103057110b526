"""The conformance suite as pytest tests, one per check. `pytest_plugin` collects this file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

import pytest

from tgi.testing.conformance.check import Check, Result
from tgi.testing.conformance.in_process import ALL_CHECKS, find_backend_under_test
from tgi.testing.conformance.run import run_check
from tgi.testing.conformance.scorecard import Scorecard

__all__ = ["SuiteRun", "test_conformance"]


@final
class SuiteRun:
    """The backend under test, and the results of the checks that have run."""

    def __init__(self, name: str, folder: Path, options: Sequence[str]) -> None:
        self._under_test = find_backend_under_test(
            name, folder, dict(option.split("=", 1) for option in options)
        )
        self._results: list[Result] = []
        self.summary = ""

    def run(self, check: Check) -> Result:
        """Run one check and record its result."""
        self._results.append(run_check(check, self._under_test))
        return self._results[-1]

    def close(self, json_path: str | None) -> None:
        """Build the scorecard and close the backend."""
        scorecard = Scorecard.of(self._under_test, self._results, len(ALL_CHECKS))
        self._under_test.discard()
        self.summary = scorecard.summary
        if json_path is not None:
            Path(json_path).write_text(scorecard.to_json(), encoding="utf-8")


@pytest.mark.parametrize("check", ALL_CHECKS, ids=lambda check: check.id)
def test_conformance(check: Check, tgi_suite_run: SuiteRun) -> None:
    """Check that the backend meets the requirement of the check."""
    result = tgi_suite_run.run(check)
    if result.status == "not applicable":
        pytest.skip(f"{check.title}: {result.message}")
    if result.status == "failed":
        pytest.fail(f"{check.id} {check.title}: {result.message}", pytrace=False)
