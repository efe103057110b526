"""Runs another `WorkerPart` in a thread, so that the result of a step arrives after the next step
has been built.
"""

from __future__ import annotations

import random
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import final

import msgspec

from tgi.backend import (
    Agreement,
    Control,
    ControlResult,
    GrammarMasks,
    ModelRunnerOutput,
    RequestedLimits,
    SchedulerOutput,
)
from tgi.testing.doubles.complete_part import CompletePart
from tgi.worker.parts import Progress

__all__ = ["LatePart"]

_DEPTH = 2
_MAX_DELAY_SECONDS = 0.002  # maximum delay of a step; the random seed is the step id


@final
@dataclass(frozen=True)
class _StepInFlight:
    # None if the step has no late masks, or if they did not arrive
    masks: Future[GrammarMasks | None]
    output: Future[ModelRunnerOutput]


@final
class LatePart:
    """A `CompletePart` with two steps in flight.

    One thread runs the steps in order. A step with late masks delays the following steps until its
    masks arrive or `run` requests its result. After `close` no further step starts.
    """

    def __init__(self, inner: CompletePart) -> None:
        self._inner = inner
        self._thread: ThreadPoolExecutor | None = None
        self._in_flight: deque[_StepInFlight] = deque()
        self._waiting: dict[int, _StepInFlight] = {}  # steps without their masks, by step id

    def load(self, progress: Progress) -> None:
        """Load the weights."""
        self._inner.load(progress)

    def plan(self, requested: RequestedLimits) -> Agreement:
        """Return the limits of the inner part, with two steps in flight."""
        agreement = self._inner.plan(requested)
        limits = msgspec.structs.replace(agreement.limits, depth=_DEPTH)
        return msgspec.structs.replace(agreement, limits=limits)

    def prepare(self, agreement: Agreement, progress: Progress) -> None:
        """Allocate the cache and start the thread."""
        self._inner.prepare(agreement, progress)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="late-part")
        self._thread.submit(int).result()  # starts the thread

    def enqueue(self, step: SchedulerOutput) -> None:
        """Queue the step for the thread."""
        if self._thread is None:
            raise AssertionError("`prepare` starts the thread before the first step")
        masks = Future[GrammarMasks | None]()
        in_flight = _StepInFlight(masks, self._thread.submit(self._compute, step, masks))
        self._in_flight.append(in_flight)
        if step.mask == "late":
            self._waiting[step.step_id] = in_flight
        else:
            masks.set_result(None)

    def enqueue_masks(self, masks: GrammarMasks) -> None:
        """Add late masks to the step that waits for these masks."""
        self._waiting.pop(masks.step_id).masks.set_result(masks)

    def run(self, step: SchedulerOutput) -> ModelRunnerOutput:
        """Wait for the oldest step. Raises `StepError` if the masks of the step did not arrive."""
        in_flight = self._in_flight.popleft()
        if self._waiting.pop(step.step_id, None) is not None:
            in_flight.masks.set_result(None)
        return in_flight.output.result()

    def probe(self) -> bool:
        """Compute one token of a sequence without blocks."""
        return self._inner.probe()

    def control(self, request: Control) -> ControlResult:
        """Load or unload an adapter, sleep or wake, export or import blocks."""
        return self._inner.control(request)

    def close(self) -> None:
        """Stop the thread and release the weights."""
        for in_flight in self._in_flight:
            in_flight.output.cancel()
        for in_flight in self._waiting.values():
            in_flight.masks.set_result(None)
        if self._thread is not None:
            self._thread.shutdown()
        self._thread = None
        self._in_flight.clear()
        self._waiting.clear()
        self._inner.close()

    def _compute(
        self, step: SchedulerOutput, masks: Future[GrammarMasks | None]
    ) -> ModelRunnerOutput:
        arrived = masks.result()
        rng = random.Random(step.step_id)  # noqa: S311 - a delay, not a secret
        time.sleep(_MAX_DELAY_SECONDS * rng.random())
        return self._inner.run(
            step if arrived is None else msgspec.structs.replace(step, masks=arrived)
        )
