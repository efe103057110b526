"""The sequences that a worker in plain Python remembers, one object each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import numpy as np

from tgi.backend.agreement import Limits
from tgi.backend.errors import StepError
from tgi.backend.records import Float32Array, Int32Array, NewSequence, Rows

__all__ = ["LiveSequence", "LiveSequences"]


@final
@dataclass(eq=False)
class LiveSequence:
    """What the worker remembers of a sequence."""

    new: NewSequence
    tokens: list[int]  # prompt and output, as far as they are known
    block_table: Int32Array
    tail: Float32Array | None = (
        None  # logits after the last computed prompt position, if the next one is scored
    )

    def append_blocks(self, blocks: Int32Array) -> None:
        """Blocks appended by a step."""
        if len(blocks):
            self.block_table = np.concatenate([self.block_table, blocks])

    @property
    def prompt_ids(self) -> list[int]:
        """The prompt."""
        return self.tokens[: self.new.num_prompt_tokens]

    @property
    def output_ids(self) -> list[int]:
        """The output so far."""
        return self.tokens[self.new.num_prompt_tokens :]


@final
class LiveSequences:
    """By handle. What breaks the agreement raises `StepError`, which no retry mends."""

    def __init__(self) -> None:
        self._by_handle: dict[int, LiveSequence] = {}

    def __len__(self) -> int:
        """How many are alive."""
        return len(self._by_handle)

    def introduce(self, new: NewSequence, block_table: Int32Array, limits: Limits) -> None:
        """Remember a sequence that begins with these blocks, or with this slot."""
        if new.sequence in self._by_handle:
            raise StepError(
                f"Sequence {new.sequence} was introduced twice without a drop.", retryable=False
            )
        if len(self._by_handle) >= limits.max_sequences:
            raise StepError(
                f"More than the agreed {limits.max_sequences} sequences are alive.", retryable=False
            )
        if len(new.tokens) > limits.max_total_tokens:
            raise StepError(
                f"Sequence {new.sequence} has {len(new.tokens)} tokens; agreed are"
                f" {limits.max_total_tokens}.",
                retryable=False,
            )
        self._by_handle[new.sequence] = LiveSequence(new, new.tokens.tolist(), block_table)

    def drop(self, handles: Iterable[int]) -> None:
        """Forget these; others are as they were."""
        for handle in handles:
            self._by_handle.pop(handle, None)

    def clear(self) -> None:
        """Forget all."""
        self._by_handle.clear()

    def of_rows(self, rows: Rows) -> list[LiveSequence]:
        """The sequence of each row, with the row's blocks appended to its table."""
        try:
            sequences = [self._by_handle[handle] for handle in rows.sequence.tolist()]
        except KeyError as error:
            raise StepError(
                f"Sequence {error.args[0]} was not introduced.", retryable=False
            ) from None
        if rows.new_blocks:
            pointers = rows.new_block_ptr[0]
            for row, sequence in enumerate(sequences):
                sequence.append_blocks(rows.new_blocks[0][pointers[row] : pointers[row + 1]])
        return sequences
