"""Sequences that wait for admission, first come, first served."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import final

from tgi.scheduler.sequence import Sequence

__all__ = ["WaitingQueue"]


@final
class WaitingQueue:
    """FIFO with head-of-line order: nobody overtakes the head. A preempted sequence returns to the
    front.
    """

    def __init__(self) -> None:
        self._sequences: OrderedDict[int, Sequence] = OrderedDict()

    def __len__(self) -> int:
        """Waiting sequences."""
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        """From the head to the tail."""
        return iter(self._sequences.values())

    def head(self) -> Sequence:
        """The next one to be admitted."""
        return next(iter(self._sequences.values()))

    def append(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self._sequences[sequence.sequence_id] = sequence

    def prepend(self, sequence: Sequence) -> None:
        """Queue a sequence before all others."""
        self._sequences[sequence.sequence_id] = sequence
        self._sequences.move_to_end(sequence.sequence_id, last=False)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out."""
        del self._sequences[sequence.sequence_id]
