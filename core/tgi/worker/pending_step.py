"""The step in flight of a worker that agreed on depth 1."""

from __future__ import annotations

from typing import final

import msgspec

from tgi.backend.errors import StepError
from tgi.backend.records import GrammarMasks, SchedulerOutput

__all__ = ["PendingStep", "out_of_memory"]


@final
class PendingStep:
    """Taken by `Worker.submit`, run by `Worker.collect`. It may wait for its masks in between."""

    def __init__(self) -> None:
        self.step: SchedulerOutput | None = None

    def submit(self, message: SchedulerOutput | GrammarMasks) -> None:
        """Take a step, or the masks that the one taken waits for. Raises `StepError` if there is no
        place for them.
        """
        if isinstance(message, GrammarMasks):
            self.step = self._with(message)
            return
        if self.step is not None:
            raise StepError("One step in flight was agreed, and one is.", retryable=False)
        self.step = message

    def take(self) -> SchedulerOutput | None:
        """The step to be run now, which is in flight no more; None if there is none."""
        step, self.step = self.step, None
        return step

    def _with(self, masks: GrammarMasks) -> SchedulerOutput:
        step = self.step
        if (
            step is None
            or step.mask != "late"
            or step.masks is not None
            or step.step_id != masks.step_id
        ):
            raise StepError(
                f"Masks came for step {masks.step_id}, which waits for none.", retryable=False
            )
        return msgspec.structs.replace(step, masks=masks)


def out_of_memory(step: SchedulerOutput) -> StepError:
    """What a worker raises when memory runs out in `step`: smaller steps may succeed."""
    rows = step.rows
    return StepError(
        f"Out of memory in a step of {rows.num_rows} rows and {rows.num_tokens} tokens.",
        retryable=True,
    )
