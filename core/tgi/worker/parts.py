"""The protocols between `StepWorker` and the part of a worker that depends on a framework."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from tgi.backend.agreement import Agreement, RequestedLimits
from tgi.backend.control import Control, ControlResult
from tgi.backend.records import GrammarMasks, ModelRunnerOutput, SchedulerOutput

__all__ = ["ControlledPart", "MeasuredPart", "OverlappedPart", "Progress", "WorkerPart"]

Progress = Callable[[int, int], None]
"""Called with (done, total) in any unit, at least every 5 s."""


class WorkerPart(Protocol):
    """Loads and runs one model. `StepWorker` calls the methods from one thread: `load`, `plan`,
    `prepare`, then `run` and `probe` any number of times, and `close` in any state.
    """

    def load(self, progress: Progress) -> None:
        """Read the weights. Raises `ModelError` naming file and tensor."""

    def plan(self, requested: RequestedLimits) -> Agreement:
        """Return the limits and all features that the device supports. Allocates no cache.

        `StepWorker` removes features that were not requested. Raises `BackendError` if a requested
        value cannot be kept.
        """

    def prepare(self, agreement: Agreement, progress: Progress) -> None:
        """Allocate the cache of the negotiated limits, and compile or capture the programs."""

    def run(self, step: SchedulerOutput) -> ModelRunnerOutput:
        """Run a step to its end. Late masks are in `step.masks`; None means that they did not come.

        Raises `StepError` if the step breaks the negotiated limits. Raises `MemoryError` if memory
        runs out and smaller steps may succeed. In both cases the drops and the new sequences of
        the step are done.
        """

    def probe(self) -> bool:
        """Run a forward pass of one token that touches no sequence. Returns whether its logits are
        finite.
        """

    def close(self) -> None:
        """Release the device. Legal in every state, and twice."""


@runtime_checkable
class OverlappedPart(Protocol):
    """A part that starts a step when it is submitted. Its `run` waits for the oldest started step
    and returns its result.
    """

    def enqueue(self, step: SchedulerOutput) -> None:
        """Start a step. Raises `StepError` if it breaks the negotiated limits; its drops and its
        new sequences are done all the same.
        """

    def enqueue_masks(self, masks: GrammarMasks) -> None:
        """Continue the step that waits for these masks. Their shape has been checked."""


@runtime_checkable
class ControlledPart(Protocol):
    """A part with a feature that needs `Control`."""

    def control(self, request: Control) -> ControlResult:
        """Carry out a request whose feature was negotiated. A request that cannot be carried out
        has no effect.
        """


@runtime_checkable
class MeasuredPart(Protocol):
    """A part that knows how much memory its device has used."""

    def peak_memory_bytes(self) -> int:
        """Maximum device memory that was in use at once, in bytes; 0 if the device does not report
        it.
        """
