"""The metric table: TGI's series, their types, labels, buckets and help texts, and when they are updated.

Source: TGI 3 `router/src/server.rs`, `router/src/infer/mod.rs`, `backends/v3/src/backend.rs`. A step with any prefill row
counts as `method="prefill"`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import final

from tgi.engine.messages import EngineStats
from tgi.server.exposition import Counter, Family, Gauge, Histogram, Summary, render

__all__ = ["Failure", "Metrics", "RequestTimes"]

_NUM_DURATION_BUCKETS = 35
_MAX_BATCH_BUCKET = 1024
_NUM_LINEAR_BUCKETS = 100
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
    """Durations of one finished generation, in seconds. The first three make up the total."""

    validation: float  # start of the handler to queueing
    queue: float  # queueing to first step
    inference: float  # first step to end
    num_generated_tokens: int

    @property
    def total(self) -> float:
        """From the start of the handler to the end."""
        return self.validation + self.queue + self.inference

    @property
    def per_token(self) -> float:
        """Inference time per generated token."""
        return self.inference / max(1, self.num_generated_tokens)


def _duration_buckets() -> list[float]:
    buckets, bound = [], 0.0001
    for _ in range(_NUM_DURATION_BUCKETS):
        bound *= 1.5
        buckets.append(bound)
    return buckets


def _linear_buckets(limit: int) -> list[float]:
    return [limit / _NUM_LINEAR_BUCKETS * step for step in range(1, _NUM_LINEAR_BUCKETS + 1)]


@final
class Metrics:
    """All series of one server."""

    def __init__(self, max_input_tokens: int, max_total_tokens: int) -> None:
        durations, totals = _duration_buckets(), _linear_buckets(max_total_tokens)
        self._request_count = Counter("tgi_request_count", "Total number of requests")
        self._request_success = Counter("tgi_request_success", "Number of successful requests")
        self._request_failure = Counter("tgi_request_failure", label="err")
        self._request_duration = Histogram("tgi_request_duration", durations, "Request duration")
        self._validation_duration = Histogram("tgi_request_validation_duration", durations, "Request validation duration")
        self._queue_duration = Histogram("tgi_request_queue_duration", durations, "Request queue duration")
        self._inference_duration = Histogram("tgi_request_inference_duration", durations, "Request inference duration")
        self._mean_time_per_token = Histogram(
            "tgi_request_mean_time_per_token_duration", durations, "Mean time per token per request"
        )
        self._generated_tokens = Histogram("tgi_request_generated_tokens", totals, "Generated tokens per request")
        self._input_length = Histogram(
            "tgi_request_input_length", _linear_buckets(max_input_tokens), "Input token length per request"
        )
        self._max_new_tokens = Histogram("tgi_request_max_new_tokens", totals, "Maximum new tokens per request")
        self._skipped_tokens = Summary("tgi_request_skipped_tokens", "Speculated tokens per request")
        self._queue_size = Gauge("tgi_queue_size", "Current queue size")
        self._batch_next_size = Histogram("tgi_batch_next_size", range(1, _MAX_BATCH_BUCKET + 1), "Batch size of the next batch")
        self._batch_current_size = Gauge("tgi_batch_current_size", "Current batch size")
        self._batch_current_max_tokens = Gauge("tgi_batch_current_max_tokens", "Maximum tokens for the current batch")
        self._inference_count = Counter("tgi_batch_inference_count", "Inference calls per method (prefill or decode)", "method")
        self._inference_success = Counter(
            "tgi_batch_inference_success", "Number of successful inference calls per method (prefill or decode)", "method"
        )
        self._batch_inference_duration = Histogram(
            "tgi_batch_inference_duration", durations, "Batch inference duration", "method"
        )
        self._batch_forward_duration = Histogram(
            "tgi_batch_forward_duration", durations, "Batch forward duration per method (prefill or decode)", "method"
        )
        self._batch_concat = Counter("tgi_batch_concat", label="reason")

    def count_request(self) -> None:
        """A handler or a generation starts."""
        self._request_count.increment()

    def count_failure(self, failure: Failure) -> None:
        """A request failed."""
        self._request_failure.increment(failure)

    def observe_valid_request(self, input_length: int, max_new_tokens: int) -> None:
        """A request passed validation."""
        self._input_length.observe(input_length)
        self._max_new_tokens.observe(min(max_new_tokens, _MAX_NEW_TOKENS_SHOWN))

    def observe_success(self, times: RequestTimes) -> None:
        """A generation completed."""
        self._request_success.increment()
        self._request_duration.observe(times.total)
        self._validation_duration.observe(times.validation)
        self._queue_duration.observe(times.queue)
        self._inference_duration.observe(times.inference)
        self._mean_time_per_token.observe(times.per_token)
        self._generated_tokens.observe(times.num_generated_tokens)

    def observe_step(self, stats: EngineStats) -> None:
        """The engine made a step."""
        scheduler = stats.scheduler
        self._queue_size.set(scheduler.num_waiting)
        self._batch_current_size.set(scheduler.num_running)
        self._batch_current_max_tokens.set(scheduler.num_used_tokens)
        if not scheduler.method:
            return
        self._inference_count.increment(scheduler.method)
        self._inference_success.increment(scheduler.method)
        self._batch_inference_duration.observe(stats.step_ns * _NS, scheduler.method)
        self._batch_forward_duration.observe(stats.forward_ns * _NS, scheduler.method)
        if scheduler.num_new_sequences:
            self._batch_next_size.observe(scheduler.num_new_sequences)
        if scheduler.has_joined:
            self._batch_concat.increment("chunking")
        if scheduler.num_decode_rows:
            # One token per row and step: none is skipped before speculation lands.
            self._skipped_tokens.observe(0.0, scheduler.num_decode_rows)

    def render(self) -> str:
        """The text exposition."""
        families: list[Family] = [
            self._request_count,
            self._request_success,
            self._request_failure,
            self._request_duration,
            self._validation_duration,
            self._queue_duration,
            self._inference_duration,
            self._mean_time_per_token,
            self._generated_tokens,
            self._input_length,
            self._max_new_tokens,
            self._skipped_tokens,
            self._queue_size,
            self._batch_next_size,
            self._batch_current_size,
            self._batch_current_max_tokens,
            self._inference_count,
            self._inference_success,
            self._batch_inference_duration,
            self._batch_forward_duration,
            self._batch_concat,
        ]
        return render(families)
