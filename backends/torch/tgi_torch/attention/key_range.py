"""The positions to which the queries of an attention layer attend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

__all__ = ["KeyRange"]


@final
@dataclass(frozen=True)
class KeyRange:
    """Limits the keys of a causal attention to a window or to the chunk of the query.

    A query at position p attends to the last `window` positions including p, or to the positions of
    its own chunk, if the positions are divided into chunks of the size `chunk`.
    """

    window: int | None = None
    chunk: int | None = None

    def first(self, position: int) -> int:
        """The first position to which the query at `position` attends."""
        if self.chunk is not None:
            return position // self.chunk * self.chunk
        return 0 if self.window is None else max(0, position - self.window + 1)

    def firsts(self, positions: Sequence[int]) -> list[int]:
        """The first position for each query at `positions`."""
        if self.window is None and self.chunk is None:
            return [0] * len(positions)
        return [self.first(position) for position in positions]

    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return which of the positions `keys` int64 [L] the positions `queries` int64 [Q] attend
        to, bool [Q, L].
        """
        distance = queries[:, None] - keys
        visible = distance >= 0
        if self.window is not None:
            visible &= distance < self.window
        if self.chunk is not None:
            visible &= (queries // self.chunk)[:, None] == keys // self.chunk
        return visible
