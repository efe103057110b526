"""The sequences of a worker between steps, as rows of a few arrays, so that a step is built without
a loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tgi.backend.agreement import Limits
from tgi.backend.errors import StepError
from tgi.backend.records import Int32Array, NewSequence, Rows, SamplingParams
from tgi.worker.cache_layout import GroupKind

__all__ = ["Int64Array", "SequenceState", "SequenceTable"]

Int64Array = npt.NDArray[np.int64]


@final
@dataclass(eq=False)
class SequenceState:
    """One live sequence. Compared by identity: a handle that is used again is a new sequence."""

    new: NewSequence
    handle: int
    index: int  # its row in the arrays of the table
    num_prompt_tokens: int
    sampling: SamplingParams
    tokens: Int32Array  # that row of `SequenceTable.tokens`
    # if the next prompt position is scored, what its score needs of the last computed one: the
    # hidden vector or the logits, in the worker's own array type
    prompt_tail: Any = None
    has_failed: bool = False  # a step with a row of it failed; it will be dropped

    @property
    def prompt(self) -> Int32Array:
        """Prompt ids. They stay valid after the sequence was dropped."""
        return self.new.tokens[: self.num_prompt_tokens]

    @property
    def encoder_tokens(self) -> Int32Array:
        """Ids that the encoder reads; empty without an encoder."""
        return self.new.encoder_tokens


@final
@dataclass(frozen=True)
class _Found:
    """The sequences of some handles. Valid until one of them is dropped."""

    handles: list[int]
    states: list[SequenceState]
    indices: Int64Array


@final
class SequenceTable:
    """The live sequences, at most `limits.max_sequences`.

    `vocab_size` is the number of token ids that a sequence may contain.
    `kinds` are the negotiated cache groups. Invariant: a row's block table is 0 beyond its blocks,
    so that any slice of rows is padded. What breaks the negotiated limits raises `StepError`, which
    does not allow a retry.
    """

    def __init__(
        self,
        limits: Limits,
        block_size: int,
        vocab_size: int,
        kinds: Sequence[GroupKind] = ("full",),
    ) -> None:
        rows, width = limits.max_sequences, limits.max_total_tokens
        self._limits = limits
        self._kinds = tuple(kinds)
        self.block_size = block_size
        self.vocab_size = vocab_size
        # One column more than the context: the last token is chosen but never computed.
        self.tokens = np.zeros((rows, width + 1), np.int32)
        self.block_tables = np.zeros((rows, -(-width // block_size)), np.int32)
        self.num_blocks = np.zeros(rows, np.int64)
        self.states = np.zeros(rows, np.int64)
        self.cross_tables = np.zeros(
            (rows, -(-width // block_size) if self.has_encoder else 0), np.int32
        )
        self.num_computed_tokens = np.zeros(rows, np.int64)
        self._states: dict[int, SequenceState] = {}
        self._num_scored = 0
        # The last result of `find`: a batch that decodes has the same rows in many steps.
        self._found = _Found([], [], np.empty(0, np.int64))
        self._free = list(reversed(range(rows)))

    @property
    def has_blocks(self) -> bool:
        """Whether tokens need blocks."""
        return "full" in self._kinds

    @property
    def has_states(self) -> bool:
        """Whether a sequence has a recurrent state."""
        return "state" in self._kinds

    @property
    def has_encoder(self) -> bool:
        """Whether a sequence has encoder tokens."""
        return "cross" in self._kinds

    def __len__(self) -> int:
        """Live sequences."""
        return len(self._states)

    def drop(self, handle: int) -> int | None:
        """Remove a sequence if it is live. Returns its block in the cache group `state` if it had
        one.
        """
        state = self._states.pop(handle, None)
        if state is None:
            return None
        self._free.append(state.index)
        self._num_scored -= state.sampling.prompt_logprobs
        self._found = _Found([], [], np.empty(0, np.int64))
        return int(self.states[state.index]) if self.has_states else None

    def clear(self) -> None:
        """Remove all sequences."""
        for handle in list(self._states):
            self.drop(handle)

    def add(self, new: NewSequence, block_tables: Sequence[Int32Array] | None = None) -> None:
        """Add a sequence. `block_tables` replaces the tables of the record, one per cache group."""
        tables = new.block_tables if block_tables is None else block_tables
        if new.sequence in self._states:
            raise StepError(
                f"Sequence {new.sequence} was introduced twice without a drop.", retryable=False
            )
        if not self._free:
            raise StepError(
                f"More than the agreed {self._limits.max_sequences} sequences are alive.",
                retryable=False,
            )
        self._check(new, tables)
        index = self._free.pop()
        self.tokens[index, : len(new.tokens)] = new.tokens
        self.block_tables[index] = 0
        self.num_blocks[index] = 0
        self.num_computed_tokens[index] = new.num_computed_tokens
        self._states[new.sequence] = SequenceState(
            new=new,
            handle=new.sequence,
            index=index,
            num_prompt_tokens=new.num_prompt_tokens,
            sampling=new.sampling,
            tokens=self.tokens[index],
        )
        self._num_scored += new.sampling.prompt_logprobs
        for kind, table in zip(self._kinds, tables, strict=True):
            if kind == "full":
                self._append_blocks(index, table)
            elif kind == "state":
                self.states[index] = table[0]
            else:
                self.cross_tables[index] = 0
                self.cross_tables[index, : len(table)] = table

    def _check(self, new: NewSequence, tables: Sequence[Int32Array]) -> None:
        limits = self._limits
        if len(new.tokens) > limits.max_total_tokens or len(tables) != len(self._kinds):
            raise StepError(
                f"Sequence {new.sequence} has {len(new.tokens)} tokens and {len(tables)}"
                f" block tables; agreed are at most {limits.max_total_tokens} and"
                f" {len(self._kinds)}.",
                retryable=False,
            )
        for kind, table in zip(self._kinds, tables, strict=True):
            needed = {"state": 1, "cross": -(-len(new.encoder_tokens) // self.block_size)}.get(
                kind, len(table)
            )
            if len(table) != needed or (
                kind == "cross" and not 0 < needed <= self.cross_tables.shape[1]
            ):
                raise StepError(
                    f"Sequence {new.sequence} has {len(table)} blocks in the group `{kind}` and"
                    f" {len(new.encoder_tokens)} encoder tokens.",
                    retryable=False,
                )

    @property
    def has_scored_prompts(self) -> bool:
        """Whether a live sequence asks for the log-probabilities of its prompt."""
        return self._num_scored > 0

    def mark_failed(self, rows: Rows) -> None:
        """Note that a step with these rows failed while later steps are in flight.

        The later rows of these sequences have no effect. They are laid out as if the failed rows
        had been computed, so that they fail no other row of their step.
        """
        for handle, end in zip(rows.sequence.tolist(), rows.start + rows.count, strict=True):
            state = self._states.get(handle)
            if state is not None:
                state.has_failed = True
                self.num_computed_tokens[state.index] = end

    def find(self, handles: list[int]) -> tuple[list[SequenceState], Int64Array]:
        """The sequences of the rows, and their rows in the arrays. Raises `StepError` for a handle
        that is not live.
        """
        if handles != self._found.handles:
            try:
                states = [self._states[handle] for handle in handles]
            except KeyError as error:
                raise StepError(
                    f"Sequence {error.args[0]} was not introduced.", retryable=False
                ) from None
            self._found = _Found(
                handles, states, np.array([state.index for state in states], np.int64)
            )
        return self._found.states, self._found.indices

    def append_blocks(self, rows: Rows, indices: Int64Array) -> None:
        """Append the step's new blocks to the block tables of its rows. `indices` [n] are their
        rows in the arrays.
        """
        if not self.has_blocks or not rows.new_blocks:
            return
        group = self._kinds.index("full")
        pointers, blocks = rows.new_block_ptr[group], rows.new_blocks[group]
        if not len(blocks):
            return
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
