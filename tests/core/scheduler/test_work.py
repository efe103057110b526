"""The work of the scheduler, counted instead of timed: calls per step and per row, and the memory
that a row leaves allocated.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.work_counter import count_calls, peak_bytes
from tgi.backend import (
    API_VERSION,
    Agreement,
    CacheGroup,
    KVCachePlan,
    Limits,
    ModelRunnerOutput,
    SamplingParams,
)
from tgi.scheduler import Request, Scheduler, SchedulerConfig
from tgi.scheduler.step import StepBuilder

FEW, MANY = 32, 256
NUM_STEPS = 32
MAX_CALLS_PER_STEP = 119
MAX_CALLS_PER_ROW = 17
MAX_BYTES_PER_ROW = 40


def scheduler_with(num_sequences):
    """Return a scheduler with `num_sequences` sequences, which are all decoding."""
    limits = Limits(max_total_tokens=1024, max_sequences=num_sequences, max_step_tokens=8192)
    plan = KVCachePlan("paged", 16, (CacheGroup("full", num_sequences * 64),))
    agreement = Agreement(
        API_VERSION, ("prefix_cache", "logprobs"), limits, plan, 100, ("temperature",)
    )
    scheduler = Scheduler(agreement, SchedulerConfig(), hash_key=b"k" * 32)
    for number in range(num_sequences):
        sampling = SamplingParams(greedy=False, logprobs="raw")
        scheduler.add(number, Request("r", [1 + number % 7, 2, 3], sampling, number, 900, (2,)))
    decode(scheduler, 1)
    return scheduler


def decode(scheduler, num_steps):
    for _ in range(num_steps):
        scheduler.update(response(scheduler.schedule()))


def response(step):
    count = step.rows.num_rows
    ids, none = np.full(count, 5, np.int32), np.empty(0, np.int32)
    ptr = np.arange(count + 1, dtype=np.int32)
    logprobs = np.zeros(count, np.float32)
    return ModelRunnerOutput(
        step.step_id, step.rows.sequence, ptr, ids, logprobs, none, none, logprobs[:0]
    )


def calls(num_sequences):
    scheduler = scheduler_with(num_sequences)
    return count_calls(lambda: decode(scheduler, NUM_STEPS)) / NUM_STEPS


def calls_per_row():
    return (calls(MANY) - calls(FEW)) / (MANY - FEW)


def test_calls_of_a_step():
    per_row = calls_per_row()
    per_step = calls(FEW) - FEW * per_row
    print(f"{per_step:.1f} calls per step, {per_row:.1f} per row")
    assert per_step <= MAX_CALLS_PER_STEP
    assert per_row <= MAX_CALLS_PER_ROW


def test_memory_of_a_step():
    """The memory that a row leaves allocated is its token, and sometimes a block of the prefix
    cache.
    """
    scheduler = scheduler_with(MANY)
    decode(scheduler, NUM_STEPS)
    left = peak_bytes(lambda: decode(scheduler, NUM_STEPS))[1] / (NUM_STEPS * MANY)
    print(f"{left:.1f} bytes left per row")
    assert left <= MAX_BYTES_PER_ROW


def test_adding_rows_one_by_one_exceeds_the_limit(monkeypatch):
    def one_by_one(self, sequences, count):
        for sequence in sequences:
            original(self, [sequence], count)
            [abs(self.step_id) for _ in range(3)]

    original = StepBuilder.add_rows
    monkeypatch.setattr(StepBuilder, "add_rows", one_by_one)
    assert calls_per_row() > MAX_CALLS_PER_ROW


def test_additional_memory_exceeds_the_limit(monkeypatch):
    kept = []

    def keeping(self, sequences, count):
        sequences = list(sequences)
        kept.extend(bytearray(16) for _ in sequences)
        original(self, sequences, count)

    original = StepBuilder.add_rows
    monkeypatch.setattr(StepBuilder, "add_rows", keeping)
    with pytest.raises(AssertionError):
        test_memory_of_a_step()
