"""The steps that were submitted to a worker and have not been collected."""

from __future__ import annotations

from collections import deque
from typing import final

import msgspec

from tgi.backend.errors import StepError
from tgi.backend.records import GrammarMasks, SchedulerOutput
from tgi.worker.masks import check_masks

__all__ = ["PendingSteps"]


@final
class PendingSteps:
    """A FIFO queue of at most `depth` steps. Late masks can be added to a step in the queue."""

    def __init__(self, depth: int, vocab_size: int) -> None:
        self._depth = depth
        self._vocab_size = vocab_size
        self._steps: deque[SchedulerOutput] = deque()

    def check_depth(self) -> None:
        """Raise `StepError` if the negotiated number of steps is already pending."""
        if len(self._steps) < self._depth:
            return
        if self._depth == 1:
            raise StepError("One step in flight was agreed, and one is.", retryable=False)
        raise StepError(
            f"{self._depth} steps in flight were agreed, and as many are.", retryable=False
        )

    def append(self, step: SchedulerOutput) -> None:
        """Add a step. Raises `StepError` if the negotiated number of steps is already pending."""
        if len(self._steps) >= self._depth:
            self.check_depth()
        self._steps.append(step)

    def add_masks(self, masks: GrammarMasks) -> None:
        """Add late masks to the pending step that waits for them. Raises `StepError` if no step
        waits for `masks`, or if `masks` has the wrong shape.
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
