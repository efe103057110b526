"""The outcome for one backend: a table to read, JSON and Markdown to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import msgspec
from rich.console import Console
from rich.table import Table

from tgi.backend import Agreement
from tgi.errors import TgiError
from tgi.testing.conformance.backend_under_test import BackendUnderTest
from tgi.testing.conformance.check import GRADES, Result

__all__ = ["ResultRow", "Scorecard", "ScorecardRecord"]


_FACTS = ("dtype", "platform")
"""Facts of the agreement that are kept: what it computed in, and on what, where that is not what
the backend is for.
"""


class ResultRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """One check's outcome. The seconds are left out of kept files, so that these change only with
    the outcome.
    """

    id: str
    grade: str
    title: str
    status: str
    message: str = ""


class ScorecardRecord(msgspec.Struct, frozen=True):
    """What is kept of a run: without the package's version, so that it changes only with the
    outcome.
    """

    backend: str
    package: str
    api: str
    grade: str  # highest one reached; empty = none
    agreed: tuple[str, ...]  # features
    features: tuple[str, ...]  # of these, those whose every check that applies passed
    sampling: tuple[str, ...]
    kv_cache: str
    limits: dict[str, int | bool]
    facts: dict[str, str]
    results: tuple[ResultRow, ...]


@final
@dataclass(frozen=True)
class Scorecard:
    """Results of the checks, and what the backend agreed to (None where it does not start)."""

    name: str
    package: str
    version: str
    api: tuple[int, int]
    agreement: Agreement | None
    results: Sequence[Result]

    @classmethod
    def of(cls, under_test: BackendUnderTest, results: Sequence[Result]) -> Scorecard:
        """The card of a run that just ended."""
        info = under_test.backend.info
        try:
            agreement = under_test.agreement()
        except (TgiError, AssertionError):
            agreement = None
        return cls(under_test.name, info.package, info.version, info.api, agreement, results)

    @property
    def failed(self) -> Sequence[Result]:
        """Checks that failed."""
        return [result for result in self.results if result.status == "failed"]

    @property
    def grade(self) -> str:
        """The highest grade of which, and below which, nothing failed; features do not count. Empty
        = none.
        """
        reached = ""
        for grade in GRADES[:-1]:
            own = [result for result in self.results if result.check.grade == grade]
            if any(result.status == "failed" for result in own):
                break
            reached = grade if own else reached
        return reached

    @property
    def features(self) -> tuple[str, ...]:
        """Features of which every check that applies passed, and at least one did; checks apply
        where a feature is agreed.
        """
        passed = {r.check.feature for r in self.results if r.status == "passed"}
        failed = {r.check.feature for r in self.results if r.status == "failed"}
        return tuple(sorted(passed - failed - {""}))

    @property
    def summary(self) -> str:
        """One line."""
        counts = {
            status: sum(r.status == status for r in self.results)
            for status in ("passed", "failed", "not applicable")
        }
        features = ", ".join(self.features) or "none"
        return (
            f"{self.name} ({self.package} {self.version}, seam {self.api[0]}.{self.api[1]}): grade"
            f" {self.grade or 'none'}; features: {features};"
            f" {', '.join(f'{count} {status}' for status, count in counts.items())}"
        )

    def print(self, console: Console) -> None:
        """The table and the summary."""
        table = Table(box=None, pad_edge=False)
        for heading in ("check", "grade", "result", "what"):
            table.add_column(heading, overflow="fold")
        styles = {"passed": "green", "failed": "bold red", "not applicable": "dim"}
        for result in self.results:
            what = result.check.title + (f"\n{result.message}" if result.message else "")
            table.add_row(
                result.check.id,
                result.check.grade,
                result.status,
                what,
                style=styles[result.status],
            )
        console.print(table, markup=False)
        console.print(self.summary, markup=False)

    def record(self) -> ScorecardRecord:
        """As it is kept."""
        agreement = self.agreement
        return ScorecardRecord(
            backend=self.name,
            package=self.package,
            api=".".join(map(str, self.api)),
            grade=self.grade,
            agreed=() if agreement is None else tuple(sorted(agreement.features)),
            features=self.features,
            sampling=() if agreement is None else tuple(sorted(agreement.sampling)),
            kv_cache="" if agreement is None else agreement.kv_cache.mode,
            limits={} if agreement is None else msgspec.structs.asdict(agreement.limits),
            facts=(
                {}
                if agreement is None
                else {key: agreement.facts[key] for key in _FACTS if key in agreement.facts}
            ),
            results=tuple(
                ResultRow(
                    r.check.id,
                    r.check.grade,
                    r.check.title,
                    r.status,
                    r.message if r.status != "passed" else "",
                )
                for r in self.results
            ),
        )

    def to_json(self) -> str:
        """The record, indented."""
        return msgspec.json.format(msgspec.json.encode(self.record()), indent=2).decode() + "\n"
