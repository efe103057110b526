"""The life cycle that all workers have in common: states and pending steps. A `WorkerPart`
implements the operations of the framework.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import final

import msgspec

from tgi.backend.agreement import Agreement, Health, RequestedLimits
from tgi.backend.control import CONTROLS, Control, ControlResult
from tgi.backend.errors import StepError, WrongStateError
from tgi.backend.protocols import WorkerReporter
from tgi.backend.records import GrammarMasks, ModelRunnerOutput, SchedulerOutput
from tgi.worker.memory.errors import step_out_of_memory
from tgi.worker.negotiation import with_requested_features
from tgi.worker.parts import ControlledPart, MeasuredPart, OverlappedPart, WorkerPart
from tgi.worker.step_checks import check_masks

__all__ = ["PendingSteps", "StepWorker", "WorkerState"]


@final
class WorkerState(enum.Enum):
    """The states in the order of `Worker`'s methods. `close` is allowed in every state. A worker
    that is ready may sleep and wake again.
    """

    CREATED = "created"
    LOADED = "loaded"
    AGREED = "negotiated"
    READY = "ready"
    ASLEEP = "asleep"
    CLOSED = "closed"

    def require(self, needed: WorkerState, method: str) -> None:
        """Raise `WrongStateError` unless this is `needed`, the state in which `method` is
        allowed.
        """
        if self is not needed:
            raise WrongStateError(
                f"`{method}` requires the state `{needed.value}`, but the worker is in the state"
                f" `{self.value}`."
            )


_TRANSITIONS: Mapping[str, tuple[WorkerState, WorkerState]] = MappingProxyType(
    {
        "sleep": (WorkerState.READY, WorkerState.ASLEEP),
        "wake": (WorkerState.ASLEEP, WorkerState.READY),
    }
)
"""Maps the name of a control request to the state that it requires and the state that follows."""


@final
class PendingSteps:
    """A FIFO queue of at most `depth` steps. Late masks are added to a step in the queue."""

    def __init__(self, depth: int, vocab_size: int) -> None:
        self._depth = depth
        self._vocab_size = vocab_size
        self._steps: deque[SchedulerOutput] = deque()

    def check_depth(self) -> None:
        """Raise `StepError` if the negotiated number of steps is already pending."""
        if len(self._steps) < self._depth:
            return
        raise StepError(
            f"The step cannot be submitted, because {self._depth} steps are in flight, the"
            " negotiated maximum.",
            retryable=False,
        )

    def append(self, step: SchedulerOutput) -> None:
        """Add a step. Raises `StepError` as `check_depth` does."""
        if len(self._steps) >= self._depth:
            self.check_depth()
        self._steps.append(step)

    def add_masks(self, masks: GrammarMasks) -> None:
        """Add late masks to a pending step. Raises `StepError` if no step waits for these masks, or
        if they have the wrong shape.
        """
        for place, step in enumerate(self._steps):
            if step.step_id == masks.step_id and step.mask == "late" and step.masks is None:
                checked = check_masks(step, masks, self._vocab_size)
                self._steps[place] = msgspec.structs.replace(step, masks=checked)
                return
        raise StepError(f"No step {masks.step_id} waits for masks.", retryable=False)

    def take(self) -> SchedulerOutput | None:
        """Remove the oldest step and return it. Returns None if no step is pending."""
        return self._steps.popleft() if self._steps else None

    def clear(self) -> None:
        """Remove all steps."""
        self._steps.clear()


@final
class StepWorker:
    """Implements the eight methods of `tgi.backend.Worker` with a `WorkerPart`.

    The worker contains the state, the negotiated limits and the steps in flight. A step runs in
    `collect`, so a failure of the step is raised by `collect`. If the part is an `OverlappedPart`,
    the step is started in `submit`.
    """

    def __init__(self, part: WorkerPart, reporter: WorkerReporter) -> None:
        self._part = part
        self._reporter = reporter
        self._state = WorkerState.CREATED
        self._agreement: Agreement | None = None
        self._pending = PendingSteps(1, 1)
        self._overlapped = part if isinstance(part, OverlappedPart) else None
        self._controlled = part if isinstance(part, ControlledPart) else None

    def load(self) -> None:
        """Load the weights. Raises a `ModelError` with the file and the tensor if the weights
        cannot be loaded.
        """
        self._state.require(WorkerState.CREATED, "load")
        self._part.load(partial(self._reporter.progress, "load"))
        self._state = WorkerState.LOADED

    def negotiate(self, requested: RequestedLimits) -> Agreement:
        """Return the limits of the part, with only the requested features. Raises `BackendError` if
        the part cannot provide a requested value.
        """
        self._state.require(WorkerState.LOADED, "negotiate")
        agreement = with_requested_features(self._part.plan(requested), requested)
        self._agreement = agreement
        self._pending = PendingSteps(agreement.limits.depth, agreement.vocab_size)
        self._state = WorkerState.AGREED
        return agreement

    def warmup(self) -> None:
        """Allocate the cache and compile the programs. Raises `BackendError` if memory runs out."""
        self._state.require(WorkerState.AGREED, "warmup")
        progress = partial(self._reporter.progress, "warmup")
        self._part.prepare(self._negotiated, progress)
        progress(1, 1)
        self._state = WorkerState.READY

    def submit(self, step: SchedulerOutput | GrammarMasks) -> None:
        """Add a step, or the late masks of a pending step. Raises `StepError` if the negotiated
        limits do not allow the step or the masks.
        """
        self._state.require(WorkerState.READY, "submit")
        if isinstance(step, GrammarMasks):
            self._submit_masks(step)
            return
        if self._overlapped is not None:
            self._pending.check_depth()
            self._overlapped.enqueue(step)
        self._pending.append(step)

    def collect(self) -> ModelRunnerOutput | None:
        """Return the result of the oldest pending step, or None if no step is pending. Raises
        `StepError` if the step failed.
        """
        self._state.require(WorkerState.READY, "collect")
        step = self._pending.take()
        if step is None:
            return None
        try:
            return self._part.run(step)
        except MemoryError as error:
            raise step_out_of_memory(step) from error

    def control(self, request: Control) -> ControlResult:
        """Let the part execute a request whose feature was negotiated. Other requests are
        rejected.
        """
        feature, agreement = CONTROLS.get(request.name), self._agreement
        if self._controlled is None or agreement is None or feature not in agreement.features:
            return ControlResult(False, f"`{request.name}` was not negotiated")
        needed, following = _TRANSITIONS.get(request.name, (self._state, self._state))
        if self._state is not needed:
            return ControlResult(False, f"the worker is in the state `{self._state.value}`")
        result = self._controlled.control(request)
        if result.ok:
            self._state = following
        return result

    def health(self, deep: bool) -> Health:
        """Return whether the worker accepts steps. If `deep` is set, the worker also runs a forward
        pass of one token.
        """
        if self._state is not WorkerState.READY:
            return Health(False, f"the worker is in the state `{self._state.value}`")
        memory_bytes = self._part.peak_memory_bytes() if isinstance(self._part, MeasuredPart) else 0
        message = self._problem() if deep else ""
        return Health(not message, message, memory_bytes)

    def close(self) -> None:
        """Release the device."""
        self._part.close()
        self._pending.clear()
        self._state = WorkerState.CLOSED

    @property
    def _negotiated(self) -> Agreement:
        if self._agreement is None:
            raise AssertionError("the limits are negotiated before they are used")
        return self._agreement

    def _submit_masks(self, masks: GrammarMasks) -> None:
        if "late_mask" not in self._negotiated.features:
            raise StepError("Late masks were not negotiated.", retryable=False)
        self._pending.add_masks(masks)
        if self._overlapped is not None:
            self._overlapped.enqueue_masks(masks)

    def _problem(self) -> str:
        """Run a forward pass of one token. Return the reason for a failure, or an empty string."""
        try:
            is_finite = self._part.probe()
        except (MemoryError, RuntimeError) as error:
            return f"a forward pass of one token failed: {error}"
        return "" if is_finite else "a forward pass of one token computed NaN or infinity"
