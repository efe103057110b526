"""The report of a comparison: tables in Markdown and a plot in SVG."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from tgi.bench import Panel, svg_plot

__all__ = ["markdown", "plot"]

# The name of our server. In another precision the name continues with a dash, as in `tgi-int8`.
_OURS = "tgi"
# The precision for which the limits are computed.
_PLAIN = "bf16"
_NONE = "-"


def markdown(report: dict[str, Any]) -> str:
    """Return one table for each precision of the weights, followed by remarks.

    A row contains the median, minimum and maximum of each server, the ratio of our server to the
    best other HTTP server, and our share of the hardware limit. Above 1, the ratio means that our
    server is better. It is the median, over the repeats, of the ratio within one repeat.
    """
    lines = [line for precision in _precisions(report) for line in (*_table(report, precision), "")]
    environment = report["environment"]
    versions = ", ".join(
        f"{name}: {version}" for name, version in environment["versions"].items() if version
    )
    where = f"{environment['processor']}, {environment['threads']} threads, {environment['date']}"
    return "\n".join(
        [
            *lines,
            f"{where}. {versions}. Each cell is a median with the minimum and maximum.",
            *_remarks(report),
        ]
    )


def _precisions(report: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(record["precision"] for record in report["records"]))


def _table(report: dict[str, Any], precision: str) -> Iterator[str]:
    peers = list(
        dict.fromkeys(
            record["peer"] for record in report["records"] if record["precision"] == precision
        )
    )
    head = [f"case, {precision}", *peers, "ours / best HTTP peer", "share of the limit"]
    rows = [head, ["-" * len(cell) for cell in head]]
    for name, less_is_better, limit in _figures(report):
        values = {peer: _values(report, name, peer) for peer in peers}
        if not any(values.values()):
            continue
        cells = [_cell(list(values[peer].values())) for peer in peers]
        share = _share(values, limit, less_is_better) if precision == _PLAIN else _NONE
        rows.append([name, *cells, _ratio(report, values, less_is_better=less_is_better), share])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return (
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        for row in rows
    )


def plot(report: dict[str, Any]) -> str:
    """Return an SVG plot of throughput and latency per case, with one line per server."""
    peers = _peers(report)
    panels = []
    for title, figure in (
        ("output tokens per second", "tok/s"),
        ("time to first token, ms", "TTFT"),
    ):
        names = [
            case["name"] for case in report["cases"] if figure == "TTFT" or case["figure"] == figure
        ]
        lines = {
            peer: [_median(_run_values(report, name, peer, figure)) for name in names]
            for peer in peers
        }
        panels.append(Panel(title, names, lines))
    return svg_plot(
        f"{report['environment']['processor']}, {report['environment']['date'][:10]}", panels
    )


def _peers(report: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(record["peer"] for record in report["records"]))


def _figures(report: dict[str, Any]) -> Iterator[tuple[str, bool, float]]:
    """Yield (name, whether lower is better, hardware limit) for each row. A limit of 0 means that
    there is none.
    """
    limits = report["environment"]["limits"]
    for case in report["cases"]:
        is_time = case["figure"] == "TTFT"
        limit = (
            limits.get(f"{case['model']}_decode", 0.0)
            if case["users"] == 1 and not is_time
            else 0.0
        )
        yield (
            f"{case['name']} {case['figure']}",
            is_time,
            limits["135m_prompt_2048_ms"] if is_time else limit,
        )
    for model in dict.fromkeys(case["model"] for case in report["cases"]):
        yield f"{model} seconds_to_ready", True, 0.0
        yield f"{model} peak_memory_mib", True, 0.0


def _values(report: dict[str, Any], name: str, peer: str) -> dict[int, float]:
    """Map each repeat to its value. Invalid runs are left out."""
    case, figure = name.split(" ")
    if figure in ("tok/s", "TTFT"):
        return _run_values(report, case, peer, figure)
    records = (r for r in report["records"] if r["peer"] == peer and r["case"] == f"{case}-process")
    return {record["repeat"]: record[figure] for record in records}


def _run_values(report: dict[str, Any], case: str, peer: str, figure: str) -> dict[int, float]:
    records = (
        r for r in report["records"] if r["peer"] == peer and r["case"] == case and r["valid"]
    )
    if figure == "TTFT":
        return {record["repeat"]: record["run"]["ttft_ms"]["p50"] for record in records}
    return {record["repeat"]: record["run"]["output_tokens_per_second"] for record in records}


def _median(values: dict[int, float]) -> float | None:
    return statistics.median(values.values()) if values else None


def _cell(values: list[float]) -> str:
    if not values:
        return _NONE
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def _ratio(
    report: dict[str, Any], values: dict[str, dict[int, float]], *, less_is_better: bool
) -> str:
    """Return the median ratio of our server to the best other server. Engines without a server of
    their own are left out.
    """
    engines = {record["peer"] for record in report["records"] if record["engine_only"]}
    rivals = {
        peer: found for peer, found in values.items() if peer not in engines and not _is_ours(peer)
    }
    ratios = []
    for repeat, value in _ours(values).items():
        others = [found[repeat] for found in rivals.values() if repeat in found]
        if others and value:
            ratios.append(min(others) / value if less_is_better else value / max(others))
    return f"{statistics.median(ratios):.2f}" if ratios else _NONE


def _is_ours(peer: str) -> bool:
    return peer.partition("-")[0] == _OURS


def _ours(values: dict[str, dict[int, float]]) -> dict[int, float]:
    return next((found for peer, found in values.items() if _is_ours(peer)), {})


def _share(values: dict[str, dict[int, float]], limit: float, less_is_better: bool) -> str:
    ours = _median(_ours(values))
    if not limit or not ours:
        return _NONE
    return f"{limit / ours if less_is_better else ours / limit:.0%}"


def _remarks(report: dict[str, Any]) -> list[str]:
    runs = [record for record in report["records"] if "run" in record]
    invalid = [
        f"{r['peer']} {r['case']}: {r['run']['failures'][:1]}" for r in runs if not r["valid"]
    ]
    most = max((r["run"]["foreign_cpus"] for r in runs), default=0.0)
    engines = sorted({record["peer"] for record in report["records"] if record["engine_only"]})
    remarks = [f"Other programs used at most {most:.2f} processors during a run."]
    remarks += [
        f"{name} is an engine without a server. It ran behind a minimal server of ours."
        for name in engines
    ]
    return remarks + [f"Invalid and left out: {line}." for line in invalid]
