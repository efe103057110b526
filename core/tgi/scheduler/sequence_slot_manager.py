"""Hands out numbered places of which a sequence needs one: cache slots, or blocks of state
groups.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

__all__ = ["SequenceSlotManager"]


@final
class SequenceSlotManager:
    """Slots 0 … `num_sequence_slots` - 1, the most recently freed one first."""

    def __init__(self, num_sequence_slots: int) -> None:
        self.num_sequence_slots = num_sequence_slots
        self._free = list(range(num_sequence_slots - 1, -1, -1))

    @property
    def num_free(self) -> int:
        """Slots nobody holds."""
        return len(self._free)

    def allocate(self) -> int:
        """Take a slot; the caller has seen that one is free."""
        return self._free.pop()

    def release(self, sequence_slot: int) -> None:
        """Give a slot back."""
        self._free.append(sequence_slot)

    def check(self, held: Iterable[int]) -> None:
        """Every slot is either free or held, and only once."""
        sequence_slots = sorted([*self._free, *held])
        assert sequence_slots == list(range(self.num_sequence_slots)), (
            f"slots are lost or held twice: {sequence_slots} of {self.num_sequence_slots}"
        )
