"""Results of runs as tables, JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tgi.bench.summary import RunSummary, Spread

__all__ = ["COLUMNS", "cells", "csv_report", "json_report", "markdown_table"]

COLUMNS = (
    "users", "tok/s", "req/s", "TTFT p50", "p95", "p99", "inter-token p50", "p95", "p99", "failed",
    "foreign CPUs",
)  # fmt: skip
"""The headings of the table. Times are in ms."""

_SPREADS = ("ttft_ms", "inter_token_ms", "time_per_output_token_ms", "latency_ms")


def cells(run: RunSummary) -> list[str]:
    """The cells of one row of the table."""
    return [
        run.label,
        f"{run.output_tokens_per_second:.1f}",
        f"{run.requests_per_second:.2f}",
        *_times(run.ttft_ms, 1),
        *_times(run.inter_token_ms, 2),
        str(run.failed) if run.valid else f"{run.failed} INVALID",
        f"{run.foreign_cpus:.2f}",
    ]


def _times(times: Spread | None, digits: int) -> list[str]:
    return (
        ["-"] * 3
        if times is None
        else [f"{value:.{digits}f}" for value in (times.p50, times.p95, times.p99)]
    )


def markdown_table(runs: Sequence[RunSummary]) -> str:
    """The table in Markdown, with one row per run."""
    lines = [list(COLUMNS), *map(cells, runs)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    lines.insert(1, ["-" * (width - 1) + ":" for width in widths])
    return "\n".join(
        f"| {' | '.join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in lines
    )


def json_report(runs: Sequence[RunSummary], settings: Mapping[str, Any]) -> bytes:
    """All settings and results as indented JSON."""
    return (
        msgspec.json.format(
            msgspec.json.encode({"settings": dict(settings), "runs": list(runs)}), indent=2
        )
        + b"\n"
    )


def csv_report(runs: Sequence[RunSummary]) -> str:
    """One line per run. Each percentile has its own column."""
    lines = [_flat(run) for run in runs]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _flat(run: RunSummary) -> dict[str, Any]:
    values = msgspec.to_builtins(run)
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if name in _SPREADS:
            of_spread = value or {}
            flat |= {
                f"{name.removesuffix('_ms')}_{part}_ms": of_spread.get(part)
                for part in Spread.__dataclass_fields__
            }
        elif not isinstance(value, list):
            flat[name] = value
    return flat
