"""Builds the scorecard of one backend, and formats it as a table and as JSON."""

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


_FACTS = ("platform",)
"""Facts of the negotiation that the record contains besides the dtype: the platform if it is not
the backend's main platform.
"""


class ResultRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """The result of one check. The record has no duration, so that it depends only on the
    results.
    """

    id: str
    grade: str
    title: str
    status: str
    message: str = ""


class ScorecardRecord(msgspec.Struct, frozen=True):
    """The record of a run. The record has no package version, so that it depends only on the
    results.
    """

    backend: str
    package: str
    api: str
    grade: str  # highest conformance level that was reached, or empty
    agreed: tuple[str, ...]  # negotiated features
    features: tuple[str, ...]  # negotiated features for which all applicable checks passed
    sampling: tuple[str, ...]
    kv_cache: str
    limits: dict[str, int | bool]
    facts: dict[str, str]
    results: tuple[ResultRow, ...]


@final
@dataclass(frozen=True)
class Scorecard:
    """The results of the checks, and the negotiated limits (None if the worker does not start)."""

    name: str
    package: str
    version: str
    api: tuple[int, int]
    agreement: Agreement | None
    results: Sequence[Result]
    num_checks: int  # of the suite; fewer results are those of a partial run

    @classmethod
    def of(
        cls, under_test: BackendUnderTest, results: Sequence[Result], num_checks: int
    ) -> Scorecard:
        """Build the scorecard of a run. `num_checks` is the number of checks of the suite."""
        info = under_test.backend.info
        try:
            agreement = under_test.agreement()
        except (TgiError, AssertionError):
            agreement = None
        return cls(
            under_test.name,
            info.package,
            info.version,
            info.api,
            agreement,
            results,
            num_checks,
        )

    @property
    def failed(self) -> Sequence[Result]:
        """Checks that failed."""
        return [result for result in self.results if result.status == "failed"]

    @property
    def is_complete(self) -> bool:
        """Whether all checks of the suite ran."""
        return len({result.check.id for result in self.results}) >= self.num_checks

    @property
    def grade(self) -> str:
        """The highest conformance level such that no check of this level or a lower level failed.

        Checks of features do not affect the level. The string is empty if no level was reached, or
        if only a part of the checks ran.
        """
        reached = ""
        if not self.is_complete:
            return reached
        for grade in GRADES[:-1]:
            own = [result for result in self.results if result.check.grade == grade]
            if any(result.status == "failed" for result in own):
                break
            reached = grade if own else reached
        return reached

    @property
    def features(self) -> tuple[str, ...]:
        """Features for which at least one check applied and all applicable checks passed.

        A check applies if its feature was negotiated.
        """
        passed = {r.check.feature for r in self.results if r.status == "passed"}
        failed = {r.check.feature for r in self.results if r.status == "failed"}
        return tuple(sorted(passed - failed - {""}))

    @property
    def summary(self) -> str:
        """The result in one line."""
        counts = {
            status: sum(r.status == status for r in self.results)
            for status in ("passed", "failed", "not applicable")
        }
        features = ", ".join(self.features) or "none"
        level = f"conformance level {self.grade or 'none'}"
        if not self.is_complete:
            level = f"no conformance level, because only {len(self.results)} of"
            level += f" {self.num_checks} checks ran"
        return (
            f"{self.name} ({self.package} {self.version}, interface {self.api[0]}.{self.api[1]}):"
            f" {level}; features: {features};"
            f" {', '.join(f'{count} {status}' for status, count in counts.items())}"
        )

    def print(self, console: Console) -> None:
        """Print the table and the summary."""
        table = Table(box=None, pad_edge=False)
        for heading in ("check", "level", "result", "requirement"):
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
        """Return the record that is stored in a file."""
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
                else {"dtype": agreement.dtype}
                | {key: agreement.facts[key] for key in _FACTS if key in agreement.facts}
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
        """The record as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self.record()), indent=2).decode() + "\n"
