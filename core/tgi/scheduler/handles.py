"""The names that sequences have in the worker."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import final

__all__ = ["HandleManager"]


@final
class HandleManager:
    """Handles 0, 1, …: the lowest free one first. One that was returned is free once the worker was
    told of the drop.
    """

    def __init__(self) -> None:
        self._free: list[int] = []  # heap
        self._dropped: list[int] = []
        self._num_handles = 0

    @property
    def has_dropped(self) -> bool:
        """Whether the worker has yet to hear of a drop."""
        return bool(self._dropped)

    def take(self) -> int:
        """A handle that the worker does not know."""
        if self._free:
            return heapq.heappop(self._free)
        self._num_handles += 1
        return self._num_handles - 1

    def drop(self, handle: int) -> None:
        """Its sequence left; the next step says so."""
        self._dropped.append(handle)

    def take_dropped(self) -> list[int]:
        """What the next step drops."""
        dropped, self._dropped = self._dropped, []
        for handle in dropped:
            heapq.heappush(self._free, handle)
        return dropped

    def check(self, held: Iterable[int]) -> None:
        """Raise AssertionError if a handle is lost or used twice."""
        named = sorted([*held, *self._dropped, *self._free])
        assert named == list(range(self._num_handles)), (
            f"handles are lost or used twice: {named} of {self._num_handles}"
        )
