"""The number of occurrences of each token, on the device."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from torch import Tensor

from tgi.backend import Int32Array

__all__ = ["TokenCounts"]


@final
class TokenCounts:
    """The counts of the sequences whose penalties depend on these counts, one slot per sequence.

    The caller assigns the slots. Rows without such penalties and padded rows use `spare_slot`,
    whose counts remain 0. The memory is 8 bytes per slot and token of the vocabulary.
    """

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        self.spare_slot = num_slots
        self._vocab_size = vocab_size
        # int32 [num_slots + 1, vocab_size]: counts in prompt and output, and in the output alone
        self.context, self.output = (
            torch.zeros(num_slots + 1, vocab_size, dtype=torch.int32, device=device)
            for _ in range(2)
        )

    def start(self, slot: int, tokens: Int32Array, num_prompt_tokens: int) -> None:
        """Set the counts of a slot to the counts of `tokens` (int32 [n], prompt and output ids).

        The caller calls this function before the first step of a sequence, outside of a graph.
        """
        for table, ids in ((self.context, tokens), (self.output, tokens[num_prompt_tokens:])):
            index = torch.from_numpy(ids.astype(np.int64)).to(table.device, non_blocking=True)
            table.select(0, slot).zero_().scatter_add_(
                0, index, torch.ones_like(index, dtype=torch.int32)
            )

    def add(self, slots: Tensor, tokens: Tensor) -> None:
        """Count one more token (int32 [R]) of each row in place. `slots` is int32 [R]."""
        index = slots.long() * self._vocab_size + tokens
        added = (slots != self.spare_slot).int()
        for table in (self.context, self.output):
            table.view(-1).scatter_add_(0, index, added)
