"""Hands out numbered places of which a sequence needs one: cache slots, or blocks of state groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

__all__ = ["SlotManager"]


@final
class SlotManager:
    """Slots 0 … `num_slots` - 1, the most recently freed one first."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots - 1, -1, -1))

    @property
    def num_free(self) -> int:
        """Slots nobody holds."""
        return len(self._free)

    def allocate(self) -> int:
        """Take a slot; the caller has seen that one is free."""
        return self._free.pop()

    def release(self, slot: int) -> None:
        """Give a slot back."""
        self._free.append(slot)

    def check(self, held: Iterable[int]) -> None:
        """Every slot is either free or held, and only once."""
        slots = sorted([*self._free, *held])
        assert slots == list(range(self.num_slots)), f"slots are lost or held twice: {slots} of {self.num_slots}"
