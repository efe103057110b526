"""The protocols between `StepWorker` and the part of a worker that depends on a framework."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from tgi.backend.agreement import Agreement, RequestedLimits
from tgi.backend.control import Control, ControlResult
from tgi.backend.records import GrammarMasks, ModelRunnerOutput, SchedulerOutput

__all__ = ["ControlledPart", "MeasuredPart", "OverlappedPart", "Progress", "WorkerPart"]

Progress = Callable[[int, int], None]
"""A function that a part calls with the finished and the total amount of work, in any unit. The
part calls it at least every 5 s during `load` and `prepare`.
"""


class WorkerPart(Protocol):
    """Loads and runs one model. `StepWorker` calls all methods from one thread. The order is
    `load`, `plan`, `prepare`, then any number of calls of `run` and `probe`. `close` may be called
    in any state.
    """

    def load(self, progress: Progress) -> None:
        """Load the weights. Raises a `ModelError` with the file and the tensor if the weights
        cannot be loaded.
        """

    def plan(self, requested: RequestedLimits) -> Agreement:
        """Return the limits and all features that the device supports. This method allocates no
        cache.

        `StepWorker` removes features that were not requested. Raises `BackendError` if the device
        cannot provide a requested value.
        """

    def prepare(self, agreement: Agreement, progress: Progress) -> None:
        """Allocate the cache for the negotiated limits, and compile or capture the programs."""

    def run(self, step: SchedulerOutput) -> ModelRunnerOutput:
        """Run a step and return its result. `step.masks` contains the late masks, or is None if the
        late masks did not arrive.

        Raises `StepError` if the step exceeds the negotiated limits. Raises `MemoryError` if memory
        runs out and smaller steps may succeed. In both cases the dropped and new sequences of the
        step have been processed.
        """

    def probe(self) -> bool:
        """Run a forward pass of one token that belongs to no sequence. Returns whether its logits
        are finite.
        """

    def close(self) -> None:
        """Release the device. This method is allowed in every state and may be called several
        times.
        """


@runtime_checkable
class OverlappedPart(Protocol):
    """A part that starts a step when the step is submitted. The part's `run` waits for the oldest
    started step and returns the result of this step.
    """

    def enqueue(self, step: SchedulerOutput) -> None:
        """Start a step. Raises `StepError` if the step exceeds the negotiated limits. In this case
        too, the dropped and new sequences of the step are processed.
        """

    def enqueue_masks(self, masks: GrammarMasks) -> None:
        """Continue the step that waits for `masks`. The caller has checked the masks' shape."""


@runtime_checkable
class ControlledPart(Protocol):
    """A part that supports control requests."""

    def control(self, request: Control) -> ControlResult:
        """Execute a request whose feature was negotiated. If the request cannot be executed, the
        result is not ok and the request has no effect.
        """


@runtime_checkable
class MeasuredPart(Protocol):
    """A part that measures the memory use of its device."""

    def peak_memory_bytes(self) -> int:
        """Return the peak device memory use in bytes. Returns 0 if the device does not report the
        peak.
        """
