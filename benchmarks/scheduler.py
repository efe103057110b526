"""Measure the overhead of the scheduler per step: `schedule` and `update`, with results that are
available immediately.

    python benchmarks/scheduler.py [--sequences 8,64,256] [--steps 400] [--depth 1] [--greedy]

All sequences are decoding. When a sequence ends, another is added, so that some steps also contain
prefill rows. The median and the 90th percentile are printed. The median is less affected by other
programs, which can only increase the time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import deque
from collections.abc import Iterator

import numpy as np

from tgi.backend import (
    API_VERSION,
    Agreement,
    CacheGroup,
    KVCachePlan,
    Limits,
    ModelRunnerOutput,
    SamplingParams,
    SchedulerOutput,
)
from tgi.scheduler import Request, Scheduler, SchedulerConfig

_PROMPT_TOKENS = 64
_NEW_TOKENS = 256
_BLOCK_SIZE = 16
_VOCAB_SIZE = 32_000
_MS = 1e6


def main() -> int:
    """Measure each number of sequences and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", default="8,64,256")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--greedy", action="store_true")
    arguments = parser.parse_args()
    print(
        f"{'sequences':>9}  {'schedule':>9}  {'update':>9}  {'step':>9}  {'step p90':>9}  "
        " milliseconds"
    )
    for size in map(int, arguments.sequences.split(",")):
        costs = list(_run(size, arguments.steps, arguments.depth, greedy=arguments.greedy))
        schedule, update = (statistics.median(column) / _MS for column in zip(*costs, strict=True))
        sums = [sum(cost) / _MS for cost in costs]
        p90 = statistics.quantiles(sums, n=10)[-1]
        print(
            f"{size:>9}  {schedule:9.3f}  {update:9.3f}  {statistics.median(sums):9.3f}  {p90:9.3f}"
        )
    return 0


def _run(size: int, num_steps: int, depth: int, *, greedy: bool) -> Iterator[tuple[int, int]]:
    """Yield the nanoseconds of `schedule` and of `update` for each of `num_steps` steps."""
    scheduler = Scheduler(_agreement(size, depth), SchedulerConfig(), hash_key=b"k" * 32)
    sampling = SamplingParams(greedy=greedy, logprobs="raw")
    for number in range(size):
        # Their lengths differ, so that their ends are spread over the steps.
        scheduler.add(
            number, _request(number, sampling, _NEW_TOKENS - number * _NEW_TOKENS // (2 * size))
        )
    number, in_flight = size, deque[SchedulerOutput]()
    for index in range(num_steps + 2):
        before = time.perf_counter_ns()
        while len(in_flight) < depth and (step := scheduler.schedule()) is not None:
            in_flight.append(step)
        scheduled = time.perf_counter_ns()
        output = _response(in_flight.popleft())
        responded = time.perf_counter_ns()
        outputs = scheduler.update(output)
        updated = time.perf_counter_ns()
        for item in outputs:
            if item.finish_reason is not None:
                scheduler.add(number, _request(number, sampling, _NEW_TOKENS))
                number += 1
        if index > 1:
            yield scheduled - before, updated - responded


def _agreement(size: int, depth: int) -> Agreement:
    limits = Limits(max_total_tokens=1024, max_sequences=size, max_step_tokens=4096, depth=depth)
    plan = KVCachePlan("paged", _BLOCK_SIZE, (CacheGroup("full", size * 1024 // _BLOCK_SIZE),))
    return Agreement(
        API_VERSION,
        ("prefix_cache", "device_token", "logprobs"),
        limits,
        plan,
        _VOCAB_SIZE,
        ("temperature",),
    )


def _request(number: int, sampling: SamplingParams, max_new_tokens: int) -> Request:
    prompt = np.random.default_rng(number).integers(3, _VOCAB_SIZE, _PROMPT_TOKENS).tolist()
    return Request(f"request-{number}", prompt, sampling, number, max_new_tokens, (2,))


def _response(step: SchedulerOutput) -> ModelRunnerOutput:
    """Return a result with one token for each sampled row."""
    rows = step.rows
    num_tokens = int(rows.sample.sum())
    return ModelRunnerOutput(
        step_id=step.step_id,
        sequence=rows.sequence,
        token_ptr=np.concatenate([[0], rows.sample.cumsum()]).astype(np.int32),
        tokens=np.full(num_tokens, 5, np.int32),
        logprobs=np.full(num_tokens, -0.5, np.float32),
        top_ptr=np.empty(0, np.int32),
        top_ids=np.empty(0, np.int32),
        top_logprobs=np.empty(0, np.float32),
    )


if __name__ == "__main__":
    raise SystemExit(main())
