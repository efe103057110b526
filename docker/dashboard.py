"""Generates the Grafana dashboard: `python docker/dashboard.py > docker/grafana.json`. A test
compares its queries with the metric table.
"""

from __future__ import annotations

import json
import sys
from typing import Any

__all__ = ["dashboard"]

Panel = dict[str, Any]

_COLUMNS = 24
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_FILTER = 'instance=~"$instance"'
_QUANTILES = (0.5, 0.9, 0.99)


def quantile(of: float, series: str, extra: str = "") -> str:
    """Return the query for a quantile of a histogram."""
    labels = f"{_FILTER},{extra}" if extra else _FILTER
    rate_of_buckets = f"rate({series}_bucket{{{labels}}}[$__rate_interval])"
    return f"histogram_quantile({of}, sum by (le) ({rate_of_buckets}))"


def quantiles(series: str, extra: str = "") -> dict[str, str]:
    """Return the queries for the usual quantiles by legend."""
    return {f"p{of * 100:.0f}": quantile(of, series, extra) for of in _QUANTILES}


def rate(series: str, extra: str = "", by: str = "") -> str:
    """Return the query for the increase of a counter per second."""
    labels = f"{_FILTER},{extra}" if extra else _FILTER
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({series}{{{labels}}}[$__rate_interval]))"


def gauge(series: str, of: str = "sum") -> str:
    """Return the query for a gauge, aggregated over all selected servers."""
    return f"{of} ({series}{{{_FILTER}}})"


_PREFILL, _DECODE = 'method="prefill"', 'method="decode"'

ROWS: dict[str, list[tuple[str, str, str, dict[str, str]]]] = {
    "Now": [
        (
            "Time to first token, median",
            "stat",
            "s",
            {
                "": quantile(0.5, "tgi_request_queue_duration")
                + " + "
                + quantile(0.5, "tgi_batch_inference_duration", _PREFILL)
            },
        ),
        (
            "Time per token, median",
            "stat",
            "s",
            {"": quantile(0.5, "tgi_request_mean_time_per_token_duration")},
        ),
        (
            "Generated tokens per second",
            "stat",
            "short",
            {"": rate("tgi_request_generated_tokens_sum")},
        ),
        ("Requests running", "stat", "short", {"": gauge("tgi_batch_current_size")}),
        ("Requests waiting", "stat", "short", {"": gauge("tgi_queue_size")}),
        ("Servers", "stat", "short", {"": gauge("tgi_request_count", "count")}),
    ],
    "Requests": [
        (
            "Requests per second",
            "timeseries",
            "reqps",
            {"started": rate("tgi_request_count"), "succeeded": rate("tgi_request_success")},
        ),
        (
            "Failures per second",
            "timeseries",
            "reqps",
            {"{{err}}": rate("tgi_request_failure", by="err")},
        ),
        ("Duration", "timeseries", "s", quantiles("tgi_request_duration")),
        ("Validation", "timeseries", "s", quantiles("tgi_request_validation_duration")),
        ("Waiting in the queue", "timeseries", "s", quantiles("tgi_request_queue_duration")),
        ("Inference", "timeseries", "s", quantiles("tgi_request_inference_duration")),
        (
            "Time per token",
            "timeseries",
            "s",
            quantiles("tgi_request_mean_time_per_token_duration"),
        ),
        ("Prompt tokens", "timeseries", "short", quantiles("tgi_request_input_length")),
        ("Generated tokens", "timeseries", "short", quantiles("tgi_request_generated_tokens")),
        ("Requested tokens", "timeseries", "short", quantiles("tgi_request_max_new_tokens")),
    ],
    "Batches": [
        ("Queue", "timeseries", "short", {"waiting": gauge("tgi_queue_size")}),
        (
            "Sequences in a step",
            "timeseries",
            "short",
            {"running": gauge("tgi_batch_current_size", "avg")},
        ),
        (
            "Tokens in the cache",
            "timeseries",
            "short",
            {"used": gauge("tgi_batch_current_max_tokens", "avg")},
        ),
        ("New sequences per step", "timeseries", "short", quantiles("tgi_batch_next_size")),
        (
            "Steps that new sequences join, per second",
            "timeseries",
            "ops",
            {"{{reason}}": rate("tgi_batch_concat", by="reason")},
        ),
        (
            "Speculative tokens per step",
            "timeseries",
            "short",
            {
                "mean": f"{rate('tgi_request_skipped_tokens_sum')}"
                f" / {rate('tgi_request_skipped_tokens_count')}"
            },
        ),
    ],
    "Steps": [
        (
            "Steps per second",
            "timeseries",
            "ops",
            {
                "{{method}}": rate("tgi_batch_inference_count", by="method"),
                "succeeded, {{method}}": rate("tgi_batch_inference_success", by="method"),
                "failed, {{method}}": rate("tgi_batch_inference_failure", by="method"),
            },
        ),
        ("Prefill step", "timeseries", "s", quantiles("tgi_batch_inference_duration", _PREFILL)),
        ("Decode step", "timeseries", "s", quantiles("tgi_batch_inference_duration", _DECODE)),
        ("Model, decode", "timeseries", "s", quantiles("tgi_batch_forward_duration", _DECODE)),
        (
            "Sampling, decode",
            "timeseries",
            "s",
            quantiles("tgi_batch_decode_duration", _DECODE),
        ),
        (
            "Processing of the result, decode",
            "timeseries",
            "s",
            quantiles("tgi_batch_filter_duration", _DECODE),
        ),
        (
            "Scheduling of a step that new sequences join",
            "timeseries",
            "s",
            quantiles("tgi_batch_concat_duration", _DECODE),
        ),
    ],
    "Grammars": [
        ("Compilation", "timeseries", "s", quantiles("tgi_grammar_compile_duration")),
        ("Masks of a step", "timeseries", "s", quantiles("tgi_grammar_mask_duration")),
        (
            "Grammars per second",
            "timeseries",
            "ops",
            {
                "compiled": rate("tgi_grammar_compile_duration_count"),
                "in the cache": rate("tgi_grammar_cache_hit"),
                "rejected": rate("tgi_grammar_rejection"),
                "ended with an error": rate("tgi_grammar_error"),
            },
        ),
        ("Masks per second", "timeseries", "ops", {"": rate("tgi_grammar_mask_count")}),
    ],
}
"""The panels of each row: title, kind, unit, and queries by legend."""


def dashboard() -> dict[str, Any]:
    """Return the dashboard as a JSON document."""
    panels: list[Panel] = []
    y = 0
    for title, contents in ROWS.items():
        panels.append(
            {
                "type": "row",
                "title": title,
                "gridPos": {"x": 0, "y": y, "w": _COLUMNS, "h": 1},
                "panels": [],
            }
        )
        y += 1
        is_small = all(kind == "stat" for _, kind, _, _ in contents)
        width, height = (4, 4) if is_small else (8, 8)
        per_line = _COLUMNS // width
        for place, (name, kind, unit, queries) in enumerate(contents):
            position = {
                "x": place % per_line * width,
                "y": y + place // per_line * height,
                "w": width,
                "h": height,
            }
            panels.append(_panel(name, kind, unit, queries) | {"gridPos": position})
        y += -(-len(contents) // per_line) * height
    return {
        "title": "tgi",
        "uid": "tgi-4",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "tags": ["tgi"],
        "templating": {"list": _variables()},
        "panels": [panel | {"id": number} for number, panel in enumerate(panels, 1)],
    }


def _panel(title: str, kind: str, unit: str, queries: dict[str, str]) -> Panel:
    targets = [
        {
            "refId": chr(ord("A") + number),
            "expr": query,
            "legendFormat": legend,
            "datasource": _SOURCE,
        }
        for number, (legend, query) in enumerate(queries.items())
    ]
    return {
        "type": kind,
        "title": title,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": targets,
    }


def _variables() -> list[dict[str, Any]]:
    instances = "label_values(tgi_request_count, instance)"
    return [
        {"name": "source", "type": "datasource", "query": "prometheus", "label": "Data source"},
        {
            "name": "instance",
            "type": "query",
            "label": "Server",
            "datasource": _SOURCE,
            "query": {"query": instances, "refId": "instances"},
            "definition": instances,
            "includeAll": True,
            "multi": True,
            "current": {"text": "All", "value": "$__all"},
            "refresh": 2,
        },
    ]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dashboard(), indent=1) + "\n")
