"""The metric table: one row per series of TGI 3, with its type, label, buckets and help text, and
when it is updated.

Source: TGI 3 `router/src/server.rs`, `router/src/infer/mod.rs`,
`backends/v3/src/{queue,backend}.rs`. Where TGI gives no help text there is none here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from tgi.server.telemetry.exposition import Kind

__all__ = ["METRICS", "Buckets", "Metric", "bucket_bounds", "metrics_page"]

Buckets = Literal["", "durations", "input tokens", "total tokens", "batch sizes"]

_NUM_DURATION_BUCKETS = 35
_MAX_BATCH_BUCKET = 1024
_NUM_LINEAR_BUCKETS = 100

_BUCKET_TEXTS = {
    "durations": f"{_NUM_DURATION_BUCKETS} bounds from 0.00015 s, each 1.5 times the last",
    "input tokens": f"{_NUM_LINEAR_BUCKETS} equal steps up to `--max-input-tokens`",
    "total tokens": f"{_NUM_LINEAR_BUCKETS} equal steps up to `--max-total-tokens`",
    "batch sizes": f"1 to {_MAX_BATCH_BUCKET}",
}


@final
@dataclass(frozen=True)
class Metric:
    """A row. Durations are in seconds."""

    name: str
    kind: Kind
    updated: str  # when, for the reference page
    help: str = ""
    label: str = ""
    values: tuple[str, ...] = ()  # of the label
    buckets: Buckets = ""


_FAILURES = ("validation", "overloaded", "template", "dropped", "generation", "incomplete")
_METHODS = ("prefill", "decode")
_REASONS = ("backpressure", "wait_exceeded", "chunking")


def _duration(name: str, updated: str, help_text: str = "", *, per_method: bool = False) -> Metric:
    label, values = ("method", _METHODS) if per_method else ("", ())
    return Metric(name, "histogram", updated, help_text, label, values, "durations")


def _per_method(name: str, updated: str, help_text: str = "") -> Metric:
    return Metric(name, "counter", updated, help_text, "method", _METHODS)


METRICS = (
    Metric(
        "tgi_request_count",
        "counter",
        "a handler or a generation begins",
        "Total number of requests",
    ),
    Metric(
        "tgi_request_success", "counter", "a generation completed", "Number of successful requests"
    ),
    Metric("tgi_request_failure", "counter", "a request failed, by cause", "", "err", _FAILURES),
    _duration(
        "tgi_request_duration",
        "a generation completed: from the start of its handler",
        "Request duration",
    ),
    _duration(
        "tgi_request_validation_duration",
        "a generation completed: start of the handler to queueing",
        "Request validation duration",
    ),
    _duration(
        "tgi_request_queue_duration",
        "a generation completed: queueing to its first step",
        "Request queue duration",
    ),
    _duration(
        "tgi_request_inference_duration",
        "a generation completed: first step to end",
        "Request inference duration",
    ),
    _duration(
        "tgi_request_mean_time_per_token_duration",
        "a generation completed: inference time per generated token",
        "Mean time per token per request",
    ),
    Metric(
        "tgi_request_generated_tokens",
        "histogram",
        "a generation completed",
        "Generated tokens per request",
        buckets="total tokens",
    ),
    Metric(
        "tgi_request_input_length",
        "histogram",
        "a request is valid",
        "Input token length per request",
        buckets="input tokens",
    ),
    Metric(
        "tgi_request_max_new_tokens",
        "histogram",
        "a request is valid; at most 1024 is shown",
        "Maximum new tokens per request",
        buckets="total tokens",
    ),
    Metric(
        "tgi_request_skipped_tokens",
        "summary",
        "a sequence takes part in a decode step: tokens beyond the first; quantiles of the last"
        " 60 s",
        "Speculated tokens per request",
    ),
    Metric("tgi_queue_size", "gauge", "after each step: sequences that wait", "Current queue size"),
    Metric(
        "tgi_batch_next_size",
        "histogram",
        "sequences run for the first time: how many",
        "Batch size of the next batch",
        buckets="batch sizes",
    ),
    Metric(
        "tgi_batch_current_size",
        "gauge",
        "after each step: sequences that run",
        "Current batch size",
    ),
    Metric(
        "tgi_batch_current_max_tokens",
        "gauge",
        "after each step: tokens of the cache that running sequences hold",
        "Maximum tokens for the current batch",
    ),
    _per_method(
        "tgi_batch_inference_count", "a step ran", "Inference calls per method (prefill or decode)"
    ),
    _per_method(
        "tgi_batch_inference_success",
        "a step ran well",
        "Number of successful inference calls per method (prefill or decode)",
    ),
    _per_method("tgi_batch_inference_failure", "a step failed"),
    _duration(
        "tgi_batch_inference_duration",
        "a step ran: the whole of it",
        "Batch inference duration",
        per_method=True,
    ),
    _duration(
        "tgi_batch_forward_duration",
        "a step ran: the model, as the worker reports it",
        "Batch forward duration per method (prefill or decode)",
        per_method=True,
    ),
    _duration(
        "tgi_batch_decode_duration",
        "a step ran: choosing tokens, as the worker reports it",
        "Time spent decoding a batch per method (prefill or decode)",
        per_method=True,
    ),
    _duration(
        "tgi_batch_filter_duration",
        "a step ran: applying its result to the sequences",
        "Time spent filtering batches and sending generated tokens per method (prefill or decode)",
        per_method=True,
    ),
    Metric(
        "tgi_batch_concat_duration",
        "histogram",
        "new sequences joined running ones: deciding the step",
        "",
        "method",
        ("decode",),
        "durations",
    ),
    Metric(
        "tgi_batch_concat",
        "counter",
        "new sequences joined running ones, by reason",
        "",
        "reason",
        _REASONS,
    ),
)
"""All series. TGI's `tgi_batch_max_total_tokens` and `tgi_batch_total_tokens` were never
exported.
"""


def bucket_bounds(metric: Metric, max_input_tokens: int, max_total_tokens: int) -> list[float]:
    """Upper bounds of a histogram's buckets, without infinity."""
    match metric.buckets:
        case "durations":
            bounds, bound = [], 0.0001
            for _ in range(_NUM_DURATION_BUCKETS):
                bound *= 1.5
                bounds.append(bound)
            return bounds
        case "batch sizes":
            return [float(size) for size in range(1, _MAX_BATCH_BUCKET + 1)]
        case "input tokens":
            return _linear(max_input_tokens)
        case "total tokens":
            return _linear(max_total_tokens)
    raise ValueError(f"{metric.name} has no buckets")


def _linear(limit: int) -> list[float]:
    return [limit / _NUM_LINEAR_BUCKETS * step for step in range(1, _NUM_LINEAR_BUCKETS + 1)]


def metrics_page() -> str:
    """The reference page, in Markdown. A test compares it with the file."""
    lines = [
        "# Metrics",
        "",
        (
            "`GET /metrics` on the main port, without a key, in Prometheus' text format. The series"
            " are those of TGI 3: counters"
        ),
        (
            "have no `_total`, and a series appears with its first update. A step with any prefill"
            " row counts as `prefill`. This"
        ),
        (
            "page is made from the metric table (`python -m tgi.server.telemetry.metric_table`);"
            " `docker/grafana.json` is a dashboard over it."
        ),
        "",
        "| Series | Type | Label | Updated when | Buckets |",
        "|---|---|---|---|---|",
    ]
    for row in METRICS:
        label = f"`{row.label}`: {', '.join(row.values)}" if row.label else ""
        lines.append(
            f"| `{row.name}` | {row.kind} | {label} | {row.updated} |"
            f" {_BUCKET_TEXTS.get(row.buckets, '')} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(metrics_page())
