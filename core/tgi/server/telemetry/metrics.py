"""Updates the series of the metric table. A step with at least one prefill row has the label
`method="prefill"`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import final

from tgi.engine.messages import EngineStats, GuidanceStats
from tgi.server.telemetry.exposition import Counter, Gauge, Histogram, Summary, render
from tgi.server.telemetry.metric_table import METRICS, bucket_bounds

__all__ = ["Failure", "Metrics", "RequestTimes"]

_MAX_NEW_TOKENS_SHOWN = 1024
_NS = 1e-9


class Failure(StrEnum):
    """Values of the label `err` of `tgi_request_failure`."""

    VALIDATION = "validation"
    OVERLOADED = "overloaded"
    TEMPLATE = "template"
    DROPPED = "dropped"
    GENERATION = "generation"
    INCOMPLETE = "incomplete"


@final
@dataclass(frozen=True)
class RequestTimes:
    """Durations of one completed generation, in seconds."""

    validation: float  # from the start of the handler until the request is queued
    queue: float  # from the queueing of the request to its first step
    inference: float  # from the first step to the end
    num_generated_tokens: int

    @property
    def total(self) -> float:
        """Duration from the start of the handler to the end."""
        return self.validation + self.queue + self.inference

    @property
    def per_token(self) -> float:
        """Mean inference time per generated token."""
        return self.inference / max(1, self.num_generated_tokens)


@final
class Metrics:
    """The metrics of one server."""

    def __init__(self, max_input_tokens: int, max_total_tokens: int) -> None:
        self._counters = {
            row.name: Counter(row.name, row.help, row.label)
            for row in METRICS
            if row.kind == "counter"
        }
        self._gauges = {
            row.name: Gauge(row.name, row.help) for row in METRICS if row.kind == "gauge"
        }
        self._histograms = {
            row.name: Histogram(
                row.name,
                bucket_bounds(row, max_input_tokens, max_total_tokens),
                row.help,
                row.label,
            )
            for row in METRICS
            if row.kind == "histogram"
        }
        self._summaries = {
            row.name: Summary(row.name, row.help) for row in METRICS if row.kind == "summary"
        }

    def count_request(self) -> None:
        """Record the start of a handler or of a generation."""
        self._counters["tgi_request_count"].increment()

    def count_failure(self, failure: Failure) -> None:
        """Record a failed request."""
        self._counters["tgi_request_failure"].increment(failure)

    def observe_valid_request(self, input_length: int, max_new_tokens: int) -> None:
        """Record a request that has been validated. Lengths are in tokens."""
        self._histograms["tgi_request_input_length"].observe(input_length)
        self._histograms["tgi_request_max_new_tokens"].observe(
            min(max_new_tokens, _MAX_NEW_TOKENS_SHOWN)
        )

    def observe_success(self, times: RequestTimes) -> None:
        """Record a completed generation."""
        histograms = self._histograms
        self._counters["tgi_request_success"].increment()
        histograms["tgi_request_duration"].observe(times.total)
        histograms["tgi_request_validation_duration"].observe(times.validation)
        histograms["tgi_request_queue_duration"].observe(times.queue)
        histograms["tgi_request_inference_duration"].observe(times.inference)
        histograms["tgi_request_mean_time_per_token_duration"].observe(times.per_token)
        histograms["tgi_request_generated_tokens"].observe(times.num_generated_tokens)

    def count_rejected_grammar(self) -> None:
        """Record a request that is rejected because of its grammar."""
        self._counters["tgi_grammar_rejection"].increment()

    def observe_step(self, stats: EngineStats) -> None:
        """Update the series of the engine after a step, or when the engine becomes idle."""
        scheduler = stats.scheduler
        self._gauges["tgi_queue_size"].set(scheduler.num_waiting)
        self._gauges["tgi_batch_current_size"].set(scheduler.num_running)
        self._gauges["tgi_batch_current_max_tokens"].set(scheduler.num_used_tokens)
        if stats.guidance is not None:
            self._observe_guidance(stats.guidance)
        if not scheduler.method:
            return
        self._counters["tgi_batch_inference_count"].increment(scheduler.method)
        if scheduler.num_new_sequences:
            self._histograms["tgi_batch_next_size"].observe(scheduler.num_new_sequences)
        if scheduler.has_joined:
            self._counters["tgi_batch_concat"].increment(scheduler.join_reason)
            self._histograms["tgi_batch_concat_duration"].observe(stats.schedule_ns * _NS, "decode")
        if stats.is_failed:
            self._counters["tgi_batch_inference_failure"].increment(scheduler.method)
        else:
            self._observe_good_step(stats)

    def _observe_guidance(self, guidance: GuidanceStats) -> None:
        counters, histograms = self._counters, self._histograms
        for _ in range(guidance.num_compiled):
            mean = guidance.compile_ns / guidance.num_compiled
            histograms["tgi_grammar_compile_duration"].observe(mean * _NS)
        if guidance.num_masks:
            histograms["tgi_grammar_mask_duration"].observe(guidance.mask_ns * _NS)
            counters["tgi_grammar_mask_count"].increment(amount=guidance.num_masks)
        if guidance.num_hits:
            counters["tgi_grammar_cache_hit"].increment(amount=guidance.num_hits)
        if guidance.num_errors:
            counters["tgi_grammar_error"].increment(amount=guidance.num_errors)

    def _observe_good_step(self, stats: EngineStats) -> None:
        scheduler, histograms, method = stats.scheduler, self._histograms, stats.scheduler.method
        self._counters["tgi_batch_inference_success"].increment(method)
        histograms["tgi_batch_inference_duration"].observe(stats.step_ns * _NS, method)
        histograms["tgi_batch_forward_duration"].observe(stats.forward_ns * _NS, method)
        histograms["tgi_batch_decode_duration"].observe(stats.sample_ns * _NS, method)
        histograms["tgi_batch_filter_duration"].observe(stats.update_ns * _NS, method)
        if scheduler.num_decode_rows:
            # This value is always 0, because speculative decoding is not implemented.
            self._summaries["tgi_request_skipped_tokens"].observe(0.0, scheduler.num_decode_rows)

    def render(self) -> str:
        """The text exposition of all metrics that have been updated."""
        counters, gauges = self._counters.values(), self._gauges.values()
        return render([*counters, *gauges, *self._histograms.values(), *self._summaries.values()])
