"""Check C-60: measures the speed of one run on a tiny model. No minimum speed is required."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Sequence

import msgspec

from tgi.backend import ModelRunnerOutput
from tgi.testing.conformance.backend_under_test import (
    REQUESTED,
    BackendUnderTest,
    RecordingReporter,
    prompt_of,
)
from tgi.testing.conformance.live_sequence import LiveSequence
from tgi.testing.conformance.scripted_core import ScriptedCore

__all__ = ["BatchFigures", "PerformanceCard", "measure"]

_PROMPT_TOKENS = 60
_NUM_STEPS = 24
_BATCHES = (1, 8)  # in addition to the negotiated maximum
_MS = 1e-6
"""Milliseconds per nanosecond."""


class BatchFigures(msgspec.Struct, frozen=True):
    """Decoding with this many sequences, one step at a time. Times are medians over the steps."""

    num_sequences: int
    first_token_ms: float  # time until every sequence has its first token
    step_ms: float
    tokens_per_second: float
    host_ms: float  # part of a step that is not in the worker's own times
    num_compiled: int  # number of steps that compiled
    # Share of the computed tokens that are padding. None if the worker does not report it.
    prefill_padding_ratio: float | None = None
    decode_padding_ratio: float | None = None


class PerformanceCard(msgspec.Struct, frozen=True):
    """The record of a measurement. It can be compared with other records from the same machine."""

    backend: str
    package: str
    version: str
    machine: str
    devices: tuple[str, ...]
    facts: dict[str, str]
    load_seconds: float
    warmup_seconds: float
    num_warmup_reports: int  # progress reports of compilations
    batches: tuple[BatchFigures, ...]


def measure(under_test: BackendUnderTest) -> PerformanceCard:
    """Start a worker with the tiny model and decode batches of several sizes."""
    under_test.discard()
    reporter = RecordingReporter()
    worker = under_test.worker(reporter=reporter)
    try:
        began = time.perf_counter()
        worker.load()
        loaded = time.perf_counter()
        agreement = worker.negotiate(REQUESTED)
        negotiated = time.perf_counter()
        worker.warmup()
        warm = time.perf_counter()
        core = ScriptedCore(worker, agreement)
        sizes = sorted(
            {
                size
                for size in (*_BATCHES, agreement.limits.max_sequences)
                if size <= agreement.limits.max_sequences
            }
        )
        batches = tuple(_measure_batch(core, size) for size in sizes)
    finally:
        worker.close()
    info = under_test.backend.info
    return PerformanceCard(
        backend=under_test.name,
        package=info.package,
        version=info.version,
        machine=platform.platform(),
        devices=tuple(device.label for device in under_test.backend.probe().devices),
        facts=agreement.facts,
        load_seconds=loaded - began,
        warmup_seconds=warm - negotiated,
        num_warmup_reports=reporter.count("compile"),
        batches=batches,
    )


def _timed_step(
    core: ScriptedCore, sequences: Sequence[LiveSequence]
) -> tuple[float, list[ModelRunnerOutput]]:
    """Run all known tokens of each sequence. Returns the time in milliseconds, and the results."""
    began = time.perf_counter_ns()
    outputs = core.advance(dict.fromkeys(sequences, 0))
    return (time.perf_counter_ns() - began) * _MS, outputs


def _measure_batch(core: ScriptedCore, size: int) -> BatchFigures:
    sequences = [core.add(prompt_of(_PROMPT_TOKENS, seed=number)) for number in range(size)]
    first, outputs = _timed_step(core, sequences)
    prefill_padding = _padding_ratio(size * _PROMPT_TOKENS, outputs)
    walls, hosts, num_compiled = (
        list[float](),
        list[float](),
        sum(output.times.compile > 0 for output in outputs),
    )
    for _ in range(_NUM_STEPS):
        wall, outputs = _timed_step(core, sequences)
        times = [output.times for output in outputs]
        reported = sum(t.prepare + t.forward + t.sample + t.compile for t in times) * _MS
        walls.append(wall)
        hosts.append(wall - reported)
        num_compiled += sum(t.compile > 0 for t in times)
    core.drop(*sequences)
    step = statistics.median(walls)
    return BatchFigures(
        num_sequences=size,
        first_token_ms=first,
        step_ms=step,
        tokens_per_second=1000 * size / step,
        host_ms=statistics.median(hosts),
        num_compiled=num_compiled,
        prefill_padding_ratio=prefill_padding,
        decode_padding_ratio=_padding_ratio(size, outputs),
    )


def _padding_ratio(num_tokens: int, outputs: Sequence[ModelRunnerOutput]) -> float | None:
    """Return the share of padding in the shapes of these steps, which computed `num_tokens`
    tokens.
    """
    padded = [output.num_padded_tokens for output in outputs]
    return 1 - num_tokens / sum(padded) if padded and all(padded) else None
