"""The table of all metrics of TGI 3, with their types, labels, buckets and help texts, and the
metrics of grammars, which TGI 3 does not have.

Source: TGI 3 `router/src/server.rs`, `router/src/infer/mod.rs`,
`backends/v3/src/{queue,backend}.rs`. Series without a help text in TGI have no help text in this
table.
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
    "durations": f"{_NUM_DURATION_BUCKETS} bounds from 0.00015 s, each 1.5 times the previous one",
    "input tokens": f"{_NUM_LINEAR_BUCKETS} equal steps up to `--max-input-tokens`",
    "total tokens": f"{_NUM_LINEAR_BUCKETS} equal steps up to `--max-total-tokens`",
    "batch sizes": f"1 to {_MAX_BATCH_BUCKET}",
}


@final
@dataclass(frozen=True)
class Metric:
    """One series. Durations are in seconds."""

    name: str
    kind: Kind
    updated: str  # event that updates the series, and the value; for the reference page
    help: str = ""
    label: str = ""
    values: tuple[str, ...] = ()  # all values of the label
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
        "a handler or a generation starts",
        "Total number of requests",
    ),
    Metric(
        "tgi_request_success", "counter", "a generation completes", "Number of successful requests"
    ),
    Metric(
        "tgi_request_failure",
        "counter",
        "a request fails; the label is the cause",
        "",
        "err",
        _FAILURES,
    ),
    _duration(
        "tgi_request_duration",
        "a generation completes; time since the start of its handler",
        "Request duration",
    ),
    _duration(
        "tgi_request_validation_duration",
        "a generation completes; time from the start of its handler until it was queued",
        "Request validation duration",
    ),
    _duration(
        "tgi_request_queue_duration",
        "a generation completes; time from queueing until its first step",
        "Request queue duration",
    ),
    _duration(
        "tgi_request_inference_duration",
        "a generation completes; time from its first step until its end",
        "Request inference duration",
    ),
    _duration(
        "tgi_request_mean_time_per_token_duration",
        "a generation completes; inference time per generated token",
        "Mean time per token per request",
    ),
    Metric(
        "tgi_request_generated_tokens",
        "histogram",
        "a generation completes",
        "Generated tokens per request",
        buckets="total tokens",
    ),
    Metric(
        "tgi_request_input_length",
        "histogram",
        "a request has been validated",
        "Input token length per request",
        buckets="input tokens",
    ),
    Metric(
        "tgi_request_max_new_tokens",
        "histogram",
        "a request has been validated; values above 1024 are recorded as 1024",
        "Maximum new tokens per request",
        buckets="total tokens",
    ),
    Metric(
        "tgi_request_skipped_tokens",
        "summary",
        "a decode step has run; additional tokens per sequence, as quantiles of the last 60 s",
        "Speculated tokens per request",
    ),
    Metric(
        "tgi_queue_size",
        "gauge",
        "a step or the engine process ends, or the engine is idle; number of waiting sequences",
        "Current queue size",
    ),
    Metric(
        "tgi_batch_next_size",
        "histogram",
        "sequences run for the first time; number of these sequences",
        "Batch size of the next batch",
        buckets="batch sizes",
    ),
    Metric(
        "tgi_batch_current_size",
        "gauge",
        "a step or the engine process ends, or the engine is idle; number of running sequences",
        "Current batch size",
    ),
    Metric(
        "tgi_batch_current_max_tokens",
        "gauge",
        "a step or the engine process ends, or the engine is idle; number of cache tokens in"
        " use by sequences",
        "Maximum tokens for the current batch",
    ),
    _per_method(
        "tgi_batch_inference_count",
        "a step has ended, with or without an error",
        "Inference calls per method (prefill or decode)",
    ),
    _per_method(
        "tgi_batch_inference_success",
        "a step has run",
        "Number of successful inference calls per method (prefill or decode)",
    ),
    _per_method("tgi_batch_inference_failure", "a step has failed"),
    _duration(
        "tgi_batch_inference_duration",
        "a step has run; duration of the whole step",
        "Batch inference duration",
        per_method=True,
    ),
    _duration(
        "tgi_batch_forward_duration",
        "a step has run; duration of the forward pass, as reported by the worker",
        "Batch forward duration per method (prefill or decode)",
        per_method=True,
    ),
    _duration(
        "tgi_batch_decode_duration",
        "a step has run; duration of sampling, as reported by the worker",
        "Time spent decoding a batch per method (prefill or decode)",
        per_method=True,
    ),
    _duration(
        "tgi_batch_filter_duration",
        "a step has run; time to apply its result to the sequences",
        "Time spent filtering batches and sending generated tokens per method (prefill or decode)",
        per_method=True,
    ),
    Metric(
        "tgi_batch_concat_duration",
        "histogram",
        "new sequences join running sequences; time to schedule the step",
        "",
        "method",
        ("decode",),
        "durations",
    ),
    Metric(
        "tgi_batch_concat",
        "counter",
        "new sequences join running sequences; the label is the reason",
        "",
        "reason",
        _REASONS,
    ),
    # TGI 3 has no metrics of grammars.
    _duration(
        "tgi_grammar_compile_duration",
        "a grammar has been compiled; time from its first sequence until the end",
        "Grammar compilation duration",
    ),
    _duration(
        "tgi_grammar_mask_duration",
        "a step with masks ends; time to compute the masks since the previous step",
        "Time spent computing grammar masks per step",
    ),
    Metric(
        "tgi_grammar_mask_count",
        "counter",
        "a step with masks ends; number of masks",
        "Number of computed grammar masks",
    ),
    Metric(
        "tgi_grammar_cache_hit",
        "counter",
        "a sequence uses a grammar that was compiled before",
        "Number of sequences whose grammar was in the cache",
    ),
    Metric(
        "tgi_grammar_rejection",
        "counter",
        "a request is rejected because of its grammar",
        "Number of rejected grammars",
    ),
    Metric(
        "tgi_grammar_error",
        "counter",
        "a sequence ends with an error of its grammar, such as a dead end or a limit",
        "Number of sequences that a grammar ended with an error",
    ),
)
"""All series. TGI never exported `tgi_batch_max_total_tokens` and `tgi_batch_total_tokens`."""


def bucket_bounds(metric: Metric, max_input_tokens: int, max_total_tokens: int) -> list[float]:
    """Upper bounds of a histogram's buckets, without infinity. Raises `ValueError` if the metric
    is not a histogram.
    """
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
    """The reference page `docs/metrics.md` in Markdown. A test compares it with the file."""
    lines = [
        "# Metrics",
        "",
        "This page is generated from the metric table:",
        "`python -m tgi.server.telemetry.metric_table > docs/metrics.md`.",
        "",
        "`GET /metrics` on the main port returns the metrics in the text format of Prometheus. It",
        "requires no API key. `docker/grafana.json` is a Grafana dashboard with these metrics.",
        "",
        "The series are those of TGI 3, and `tgi_grammar_*`, which TGI 3 does not have. Counters",
        "have no suffix `_total`. A series appears after its first update. A step that contains a",
        "prefill row is counted as `prefill`. Durations are in seconds.",
        "",
        "| Series | Type | Label | Updated when; value | Buckets |",
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
