"""The results of one run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

from tgi.bench.load import Load
from tgi.bench.stream_result import StreamResult

__all__ = ["RunSummary", "Spread", "spread", "summarize"]

_MAX_SHOWN_FAILURES = 5


@final
@dataclass(frozen=True)
class Spread:
    """Mean and percentiles in ms."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float


@final
@dataclass(frozen=True)
class RunSummary:
    """The results of one run. Times are in ms, rates per second.

    A run with a failed request is invalid, because a server that rejects requests seems to be fast.
    """

    label: str
    users: int
    rate: float | None
    requests: int
    failed: int
    valid: bool
    failures: list[str]  # messages of the first failures
    seconds: float
    output_tokens: int
    prompt_tokens: float | None  # mean, as reported by the server
    ended_early: int  # streams that ended with an end-of-sequence token
    counted_by: str  # `server`, or `events` if the server reports no token counts
    output_tokens_per_second: float
    requests_per_second: float
    ttft_ms: Spread | None
    inter_token_ms: Spread | None
    time_per_output_token_ms: Spread | None
    latency_ms: Spread | None
    foreign_cpus: float
    request_ids: list[str] = field(default_factory=list)


def summarize(
    load: Load, results: Sequence[StreamResult], foreign_cpus: float, seconds: float
) -> RunSummary:
    """Summarize all streams of a run that took `seconds`. Rates include successful streams only."""
    good = [result for result in results if not result.error]
    failures = [result.error for result in results if result.error]
    num_tokens = sum(result.num_tokens for result in good)
    prompts = [result.num_prompt_tokens for result in good if result.num_prompt_tokens is not None]
    return RunSummary(
        label=load.label,
        users=load.num_users,
        rate=load.rate,
        requests=len(results),
        failed=len(failures),
        valid=bool(good) and not failures,
        failures=failures[:_MAX_SHOWN_FAILURES],
        seconds=round(seconds, 3),
        output_tokens=num_tokens,
        prompt_tokens=round(statistics.fmean(prompts), 1) if prompts else None,
        ended_early=sum(result.num_tokens < load.num_output_tokens for result in good),
        counted_by="server" if all(result.is_counted_by_server for result in good) else "events",
        output_tokens_per_second=round(num_tokens / seconds, 2),
        requests_per_second=round(len(good) / seconds, 3),
        ttft_ms=spread([result.ttft for result in good]),
        inter_token_ms=spread([gap for result in good for gap in result.gaps]),
        time_per_output_token_ms=spread(
            [t for t in (result.time_per_output_token for result in good) if t is not None]
        ),
        latency_ms=spread([result.end_time for result in good]),
        foreign_cpus=round(foreign_cpus, 2),
        request_ids=[result.request_id for result in results],
    )


def spread(seconds: Sequence[float]) -> Spread | None:
    """Mean and interpolated percentiles of times in seconds. The result is None if there are no
    times.
    """
    if not seconds:
        return None
    ordered = sorted(seconds)
    return Spread(
        round(1e3 * statistics.fmean(ordered), 3),
        *(round(1e3 * _quantile(ordered, q), 3) for q in (0.5, 0.9, 0.95, 0.99)),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = (len(ordered) - 1) * share
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
