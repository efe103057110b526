"""Cosines and sines of rotary embeddings for the positions of one step."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, final

import torch
from torch import Tensor

from tgi.architectures import Rope
from tgi.architectures.rope import inverse_frequencies, original_length
from tgi_torch.attention.paged import AttentionMetadata

__all__ = ["RotaryTable", "Rotation"]

_FIRST_ROWS = 2048


class Rotation(NamedTuple):
    """Cosine and sine per token, float32 [T, 1, rotary_dim / 2], to broadcast over heads."""

    cos: Tensor
    sin: Tensor


@final
@dataclass
class RotaryTable:
    """The rotations of one `Rope`, cached in float32 for positions 0 to rows - 1.

    The table is doubled when a step needs more positions. With dynamic NTK or LongRoPE scaling, the
    frequencies depend on the length of the sequence. The table then contains the frequencies of
    short sequences. If the prompt or context of a row is longer than the original length, the
    rotation of that row is computed for its own length.
    """

    rope: Rope
    device: torch.device
    table: Rotation | None = None
    original_length: int | None = field(init=False)  # None if the frequencies are constant

    def __post_init__(self) -> None:
        self.original_length = original_length(self.rope)

    def lookup(self, metadata: AttentionMetadata) -> Rotation:
        """Look up the rotation of every token of the step."""
        limit = self.original_length
        if limit is not None and max(metadata.rotary_lens, default=0) > limit:
            return self._lookup_by_row(metadata, limit)
        return self._lookup_short(metadata.positions, max(metadata.context_lens, default=0))

    def _lookup_short(self, positions: Tensor, longest: int) -> Rotation:
        table = self.table
        if table is None or table.cos.shape[0] < longest:
            rows = _FIRST_ROWS if table is None else table.cos.shape[0]
            while rows < longest:
                rows *= 2
            table = self.table = self._compute(
                torch.arange(rows, device=self.device), sequence_length=1
            )
        return Rotation(table.cos[positions], table.sin[positions])

    def _lookup_by_row(self, metadata: AttentionMetadata, limit: int) -> Rotation:
        bounds = [0]
        for query_len in metadata.query_lens:
            bounds.append(bounds[-1] + query_len)
        parts = []
        for (start, stop), length in zip(pairwise(bounds), metadata.rotary_lens, strict=True):
            positions = metadata.positions[start:stop]
            parts.append(
                self._compute(positions, length)
                if length > limit
                else self._lookup_short(positions, length)
            )
        return Rotation(
            torch.cat([part.cos for part in parts]), torch.cat([part.sin for part in parts])
        )

    def _compute(self, positions: Tensor, sequence_length: int) -> Rotation:
        frequencies, attention_factor = inverse_frequencies(self.rope, sequence_length)
        rates = torch.tensor(frequencies, dtype=torch.float32, device=self.device)
        angles = (positions.float()[:, None] * rates).unsqueeze(1)
        return Rotation(angles.cos() * attention_factor, angles.sin() * attention_factor)
