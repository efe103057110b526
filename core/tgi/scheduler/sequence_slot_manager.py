"""Allocates one numbered slot for each sequence: a cache slot, or a block in a cache group for
recurrent state.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

__all__ = ["SequenceSlotManager"]


@final
class SequenceSlotManager:
    """Manages slots 0 … `num_sequence_slots` - 1. The most recently released slot is allocated
    first.
    """

    def __init__(self, num_sequence_slots: int) -> None:
        self.num_sequence_slots = num_sequence_slots
        self._free = list(range(num_sequence_slots - 1, -1, -1))

    @property
    def num_free(self) -> int:
        """Number of free slots."""
        return len(self._free)

    def allocate(self) -> int:
        """Allocate a slot. The caller has checked that a slot is free."""
        return self._free.pop()

    def release(self, sequence_slot: int) -> None:
        """Release a slot."""
        self._free.append(sequence_slot)

    def check(self, held: Iterable[int]) -> None:
        """Raise AssertionError unless each slot is either free or contained once in `held`."""
        sequence_slots = sorted([*self._free, *held])
        assert sequence_slots == list(range(self.num_sequence_slots)), (
            f"slots are lost or used twice: {sequence_slots} of {self.num_sequence_slots}"
        )
