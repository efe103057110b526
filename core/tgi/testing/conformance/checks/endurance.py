"""Checks over thousands of steps: correct tokens and no memory leaks."""

from __future__ import annotations

import gc
import random
import threading
import tracemalloc
from collections.abc import Sequence

import psutil  # type: ignore[import-untyped]

from tgi.backend import SamplingParams
from tgi.testing.conformance.backend_under_test import BackendUnderTest, prompt_of
from tgi.testing.conformance.check import Check
from tgi.testing.conformance.expectations import check_sequence
from tgi.testing.conformance.live_sequence import LiveSequence
from tgi.testing.conformance.models import TinyModel
from tgi.testing.conformance.process_memory import process_bytes
from tgi.testing.conformance.require import CheckFailedError, require
from tgi.testing.conformance.scripted_core import ScriptedCore

__all__ = ["CHECKS"]

_NUM_WARM_STEPS = 1000
_NUM_MEASURED_STEPS = 2000
_MOST_BYTES_PER_STEP = 8 << 10  # growth of the process; a fragmented heap grows by less
_NUM_TRACED_SEQUENCES = 60  # in one round
_NUM_ROUNDS = 16  # maximum; the caches of a framework can grow for several rounds
_MOST_BYTES_PER_SEQUENCE = 64  # growth of Python objects and numpy arrays


def _many_steps(under_test: BackendUnderTest) -> None:
    """Sequences start and end all the time. The second part of the run uses no more memory, threads
    and files than the first part.
    """
    model, process = under_test.models.get(), psutil.Process()

    def resources() -> tuple[int, int, int, int]:
        used = core.worker.health(deep=False).memory_bytes
        return process_bytes(), used, threading.active_count(), process.num_fds()

    with under_test.serving(model) as core:
        load = _Load(model, core)
        load.run(_NUM_WARM_STEPS)
        before = resources()
        load.run(_NUM_MEASURED_STEPS)
        after = resources()
    most = _NUM_MEASURED_STEPS * _MOST_BYTES_PER_STEP
    for what, first, last in zip(("process", "device"), before[:2], after[:2], strict=True):
        require(
            last - first <= most,
            f"the memory of the {what} grew by {last - first} bytes in {_NUM_MEASURED_STEPS} steps,"
            f" the limit is {most}",
        )
    require(after[2:] <= before[2:], f"threads and files grew: {before[2:]} to {after[2:]}")


class _Load:
    """Keeps a few short sequences running, and compares each sequence at its end."""

    def __init__(self, model: TinyModel, core: ScriptedCore) -> None:
        self._model = model
        self._core = core
        self._rng = random.Random(8)  # noqa: S311 - for random sizes, not for a secret
        self._live: dict[LiveSequence, int] = {}  # the goals of output tokens
        self._num_added = 0
        has_logprobs = core.agreement.has("logprobs")
        self._sampling = SamplingParams(logprobs="raw" if has_logprobs else "none")

    def run(self, num_steps: int) -> None:
        """Run at least this many steps. All sequences are dropped at the end."""
        goal = self._core.step_id + num_steps
        most = min(3, self._core.agreement.limits.max_sequences)
        while self._core.step_id < goal:
            while len(self._live) < most and self._rng.random() < 0.6:
                self._add()
            if self._live:
                count = self._rng.randint(1, len(self._live))
                self._core.generate(self._rng.sample(list(self._live), count), 1)
            self._end([s for s, length in self._live.items() if len(s.output) >= length])
        self._end(list(self._live))
        self._core.clear()

    def _add(self) -> None:
        self._num_added += 1
        prompt = prompt_of(self._rng.randint(1, 12), seed=self._num_added)
        self._live[self._core.add(prompt, self._sampling)] = self._rng.randint(2, 14)

    def _end(self, sequences: Sequence[LiveSequence]) -> None:
        for sequence in sequences:
            del self._live[sequence]
            if sequence.output:
                check_sequence(self._model, sequence, self._core.agreement)
            self._core.drop(sequence)


def _dropped_sequences(under_test: BackendUnderTest) -> None:
    """Introduce and drop sequences one after the other, in rounds. A leak grows in every round,
    while the caches of Python and of a framework grow only in the first rounds. The check passes
    after the first round without growth. Only memory that Python and numpy allocate is traced.
    """
    most = _NUM_TRACED_SEQUENCES * _MOST_BYTES_PER_SEQUENCE
    with under_test.serving(under_test.models.get()) as core:
        sampling = SamplingParams(greedy="temperature" not in core.agreement.sampling)

        def use(count: int) -> int:
            for number in range(count):
                sequence = core.add(prompt_of(6, seed=number % 8), sampling)
                core.generate([sequence], 2)
                core.drop(sequence)
            core.clear()
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        use(_NUM_TRACED_SEQUENCES)
        tracemalloc.start()
        try:
            size = use(_NUM_TRACED_SEQUENCES)
            before = tracemalloc.take_snapshot()
            growths = list[int]()
            for _ in range(_NUM_ROUNDS):
                size, previous = use(_NUM_TRACED_SEQUENCES), size
                growths.append(size - previous)
                if growths[-1] <= most:
                    return
            after = tracemalloc.take_snapshot()
        finally:
            tracemalloc.stop()
    grown = max(after.compare_to(before, "lineno"), key=lambda difference: difference.size_diff)
    raise CheckFailedError(
        f"{_NUM_TRACED_SEQUENCES} sequences that were dropped left {min(growths)} bytes, the limit"
        f" is {most}; most of them are allocated in {grown.traceback}"
    )


CHECKS: Sequence[Check] = (
    Check(
        "C-62a",
        "robust",
        "3,000 steps match the reference, and the process does not grow",
        _many_steps,
    ),
    Check("C-62b", "robust", "dropped sequences leave no memory behind", _dropped_sequences),
)
