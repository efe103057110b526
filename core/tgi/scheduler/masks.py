"""Builds the masks of the rows that sample tokens of constrained sequences.

If all tokens before a step's sampled tokens are known when the step is built, its masks are part of
the step (feature `mask`). Otherwise the masks are sent after the step (feature `late_mask`), as
soon as the tokens are known.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import final

import msgspec
import numpy as np

from tgi.backend import Agreement, GrammarMasks, Int32Array, SchedulerOutput, empty_int32
from tgi.scheduler.sequence import Sequence
from tgi.scheduler.step import RowLayout, StepBuilder

__all__ = ["MaskBuilder"]


@final
@dataclass(slots=True, frozen=True)
class _ConstrainedRows:
    """The rows of one step that sample tokens of constrained sequences. A row is ignored if its
    sequence was removed from the worker after the step was built.
    """

    step_id: int
    rows: list[int]  # [k] ascending
    sequences: list[Sequence]  # [k]
    epochs: list[int]  # [k] `Sequence.epoch` when the step was built
    ends: list[int]  # [k] number of tokens before the sampled token

    def valid(self) -> list[int]:
        """Return the indices of the rows that are not ignored."""
        pairs = zip(self.sequences, self.epochs, strict=True)
        return [index for index, (sequence, epoch) in enumerate(pairs) if sequence.epoch == epoch]

    def are_known(self) -> bool:
        """Whether all tokens before the sampled tokens are known."""
        return all(
            self.ends[index] <= len(self.sequences[index].token_ids) for index in self.valid()
        )

    def masks(self) -> GrammarMasks:
        """Return the masks of the rows that are not ignored. A row without a mask may sample any
        token.
        """
        rows, words = list[int](), list[Int32Array]()
        for index in self.valid():
            constraint = self.sequences[index].constraint
            mask = None if constraint is None else constraint.mask()
            if mask is not None:
                rows.append(self.rows[index])
                words.append(mask)
        all_words = np.concatenate(words) if words else empty_int32()
        return GrammarMasks(self.step_id, np.array(rows, np.int32), all_words)


@final
class MaskBuilder:
    """Adds masks to steps, and builds the masks that are sent after their steps."""

    def __init__(self, agreement: Agreement) -> None:
        self._has_inline = agreement.has("mask")
        self._has_late = agreement.has("late_mask")
        self._waiting: deque[_ConstrainedRows] = deque()  # steps whose masks were not sent

    @property
    def is_supported(self) -> bool:
        """Whether the worker can apply masks."""
        return self._has_inline or self._has_late

    def add(
        self, step: SchedulerOutput, builder: StepBuilder, layout: RowLayout
    ) -> SchedulerOutput:
        """Return the step with its masks, or mark that its masks are sent later. `builder` and
        `layout` describe the rows of the step.
        """
        rows = layout.constrained
        constrained = _ConstrainedRows(
            step.step_id,
            rows,
            [builder.sequences[row] for row in rows],
            [layout.epochs[row] for row in rows],
            [builder.starts[row] + builder.counts[row] for row in rows],
        )
        if not (self._has_inline and constrained.are_known()):
            self._waiting.append(constrained)
            return msgspec.structs.replace(step, mask="late")
        masks = constrained.masks()
        if not len(masks.row):
            return step
        return msgspec.structs.replace(step, mask="inline", masks=masks)

    def take_late(self) -> list[GrammarMasks]:
        """Return the late masks that can be computed now, in the order of their steps."""
        ready = []
        while self._waiting and self._waiting[0].are_known():
            ready.append(self._waiting.popleft().masks())
        return ready

    def drop(self, step_id: int) -> None:
        """Discard the masks of a step that failed."""
        self._waiting = deque(rows for rows in self._waiting if rows.step_id != step_id)
