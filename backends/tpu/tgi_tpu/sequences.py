"""What the worker remembers of each sequence between steps, on the host: progress, block table,
parameters.

The ids of the sequences are on the device, in the history, where the tokens are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from tgi.backend import Int32Array, Limits, NewSequence, Rows, SamplingParams, StepError

__all__ = ["Int64Array", "SequenceState", "SequenceTable"]

Int64Array = npt.NDArray[np.int64]


@final
@dataclass(frozen=True, eq=False)
class SequenceState:
    """One live sequence. Two are the same only if they are the same object: a handle that comes
    back is a new sequence.
    """

    handle: int
    index: int  # its row in the table, and in the history on the device
    prompt: Int32Array
    sampling: SamplingParams


@final
class SequenceTable:
    """The live sequences, at most `limits.max_sequences`.

    Invariant: a row's block table is 0 beyond its blocks, so that any slice of rows is padded.
    """

    def __init__(self, limits: Limits, block_size: int) -> None:
        rows = limits.max_sequences
        self._limits = limits
        self.block_size = block_size
        self.block_tables = np.zeros((rows, -(-limits.max_total_tokens // block_size)), np.int32)
        self.num_blocks = np.zeros(rows, np.int64)
        self.num_computed_tokens = np.zeros(rows, np.int64)
        self._states: dict[int, SequenceState] = {}
        self._free = list(reversed(range(rows)))

    def drop(self, handle: int) -> None:
        """Forget a sequence, if it is there: one that broke the agreement never was."""
        state = self._states.pop(handle, None)
        if state is not None:
            self._free.append(state.index)

    def add(self, new: NewSequence) -> SequenceState:
        """Take a sequence in. Raises `StepError` if it breaks the agreement."""
        if new.sequence in self._states:
            raise StepError(
                f"Sequence {new.sequence} was introduced twice without a drop.", retryable=False
            )
        if not self._free:
            raise StepError(
                f"More than the agreed {self._limits.max_sequences} sequences are alive.",
                retryable=False,
            )
        if len(new.tokens) > self._limits.max_total_tokens or len(new.block_tables) != 1:
            raise StepError(
                f"Sequence {new.sequence} has {len(new.tokens)} tokens and {len(new.block_tables)}"
                f" block tables; agreed are at most {self._limits.max_total_tokens} and 1.",
                retryable=False,
            )
        index = self._free.pop()
        self.block_tables[index] = 0
        self.num_blocks[index] = 0
        self.num_computed_tokens[index] = new.num_computed_tokens
        state = SequenceState(
            new.sequence, index, new.tokens[: new.num_prompt_tokens], new.sampling
        )
        self._states[new.sequence] = state
        self._append_blocks(index, new.block_tables[0])
        return state

    def find(self, handles: Sequence[int]) -> list[SequenceState]:
        """The sequences of the rows. Raises `StepError` for one that was never introduced."""
        try:
            return [self._states[handle] for handle in handles]
        except KeyError as error:
            raise StepError(
                f"Sequence {error.args[0]} was not introduced.", retryable=False
            ) from None

    def append_blocks(self, rows: Rows, indices: Int64Array) -> None:
        """Append the step's new blocks to the tables of its rows, whose places in the table are
        `indices`.
        """
        pointers, blocks = rows.new_block_ptr[0], rows.new_blocks[0]
        for row in np.flatnonzero(np.diff(pointers)):
            self._append_blocks(int(indices[row]), blocks[pointers[row] : pointers[row + 1]])

    def _append_blocks(self, index: int, blocks: Int32Array) -> None:
        first = int(self.num_blocks[index])
        last = first + len(blocks)
        if last > self.block_tables.shape[1]:
            raise StepError(
                f"A sequence has {last} blocks; its context takes {self.block_tables.shape[1]}.",
                retryable=False,
            )
        self.block_tables[index, first:last] = blocks
        self.num_blocks[index] = last
