"""The protocols between `StepWorker` and the part of a worker that depends on a framework."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from tgi.backend.agreement import Agreement, RequestedLimits
from tgi.backend.control import Control, ControlResult
from tgi.backend.records import GrammarMasks, ModelRunnerOutput, SchedulerOutput

__all__ = ["ControlledPart", "MeasuredPart", "OverlappedPart", "Progress", "WorkerPart"]

Progress = Callable[[int, int], None]
"""A function that is called with (done, total) in any unit, at least every 5 s."""


class WorkerPart(Protocol):
    """Loads and runs one model. `StepWorker` calls the methods from one thread: `load`, `plan`,
    `prepare`, then `run` and `probe` any number of times, and `close` in any state.
    """

    def load(self, progress: Progress) -> None:
        """Load the weights. Raises `ModelError` that names the file and tensor."""

    def plan(self, requested: RequestedLimits) -> Agreement:
        """Return the limits and all features that the device supports. Allocates no cache.

        `StepWorker` removes features that were not requested. Raises `BackendError` if a requested
        value cannot be kept.
        """

    def prepare(self, agreement: Agreement, progress: Progress) -> None:
        """Allocate the cache of the negotiated limits, and compile or capture the programs."""

    def run(self, step: SchedulerOutput) -> ModelRunnerOutput:
        """Run a step to its end. Late masks are in `step.masks`. It is None if they did not arrive.

        Raises `StepError` if the step exceeds the negotiated limits. Raises `MemoryError` if memory
        runs out and smaller steps may succeed. In both cases the step's drops and new sequences
        have been processed.
        """

    def probe(self) -> bool:
        """Run a forward pass of one token that belongs to no sequence. Returns whether its logits
        are finite.
        """

    def close(self) -> None:
        """Release the device. Idempotent and allowed in every state."""


@runtime_checkable
class OverlappedPart(Protocol):
    """A part that starts a step when it is submitted. Its `run` waits for the oldest started step
    and returns its result.
    """

    def enqueue(self, step: SchedulerOutput) -> None:
        """Start a step. Raises `StepError` if the step exceeds the negotiated limits. Its drops and
        new sequences are processed in any case.
        """

    def enqueue_masks(self, masks: GrammarMasks) -> None:
        """Continue the step that waits for these masks. Their shape has been checked."""


@runtime_checkable
class ControlledPart(Protocol):
    """A part with a feature that requires control requests."""

    def control(self, request: Control) -> ControlResult:
        """Execute a request whose feature was negotiated. A request that cannot be executed has no
        effect.
        """


@runtime_checkable
class MeasuredPart(Protocol):
    """A part that measures the memory use of its device."""

    def peak_memory_bytes(self) -> int:
        """Return the maximum device memory that was in use at once, in bytes. Returns 0 if the
        device does not report it.
        """
