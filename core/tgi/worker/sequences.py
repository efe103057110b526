"""Stores the sequences of a worker between steps, as rows of a few arrays. A step is therefore
built without a loop over sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tgi.backend.agreement import Limits
from tgi.backend.errors import StepError
from tgi.backend.records import (
    Int32Array,
    NewSequence,
    Rows,
    SamplingParams,
    SchedulerOutput,
)
from tgi.worker.cache_layout import GroupKind
from tgi.worker.step_checks import check_size, check_token_ids

__all__ = ["Int64Array", "SequenceState", "SequenceTable"]

Int64Array = npt.NDArray[np.int64]


@final
@dataclass(eq=False)
class SequenceState:
    """One live sequence. Instances compare by identity, because a handle can be used again."""

    new: NewSequence
    handle: int
    index: int  # the sequence's row in the arrays of the table
    num_prompt_tokens: int
    sampling: SamplingParams
    tokens: Int32Array  # the sequence's row of `SequenceTable.tokens`
    # The hidden vector or the logits of the last computed position, in the array type of the
    # worker. It is set only if the next prompt position is scored.
    prompt_tail: Any = None
    has_failed: bool = False  # a step with this sequence failed; the core will drop the sequence

    @property
    def prompt(self) -> Int32Array:
        """Token ids of the prompt. They stay valid after the sequence was dropped."""
        return self.new.tokens[: self.num_prompt_tokens]

    @property
    def encoder_tokens(self) -> Int32Array:
        """Token ids that the encoder reads. The array is empty if the model has no encoder."""
        return self.new.encoder_tokens


@final
@dataclass(frozen=True)
class _Found:
    """The sequences of some handles. This result of `find` is valid until a sequence is dropped."""

    handles: list[int]
    states: list[SequenceState]
    indices: Int64Array


@final
class SequenceTable:
    """The live sequences, at most `limits.max_sequences`.

    `vocab_size` is the number of token ids that a sequence may contain. `kinds` contains the kind
    of each negotiated cache group. Invariant: the entries of a block table after the last block are
    0, so any slice of rows is already padded. The methods raise a `StepError` that is not retryable
    if a sequence or a row exceeds the negotiated limits.
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
        # Whether tokens need blocks, and whether a sequence has a state or encoder tokens.
        self.has_blocks = "full" in kinds
        self.has_states = "state" in kinds
        self.has_encoder = "cross" in kinds
        self.block_size = block_size
        self.vocab_size = vocab_size
        # There is one column more than the context length, because the last token is sampled but is
        # never an input of the model.
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
        # The result of the last `find`. A decoding batch has the same rows in many steps.
        self._found = _Found([], [], np.empty(0, np.int64))
        self._free = list(reversed(range(rows)))

    def __len__(self) -> int:
        """Number of live sequences."""
        return len(self._states)

    def drop(self, handle: int) -> int | None:
        """Remove a sequence if it is live. Returns its block in the cache group `state`, or None if
        it has none.
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

    def update(self, step: SchedulerOutput) -> None:
        """Apply the drops and additions of a step, then check its size."""
        for handle in step.dropped:
            self.drop(handle)
        for new in step.added:
            self.add(new)
        check_size(step.rows, self._limits)

    def add(self, new: NewSequence) -> None:
        """Add a sequence. A sequence slot is one block, which contains the whole sequence."""
        tables = new.block_tables
        if new.sequence_slot >= 0:
            tables = [np.array([new.sequence_slot], np.int32)]
        if new.sequence in self._states:
            raise StepError(
                f"Sequence {new.sequence} was introduced twice without a drop.", retryable=False
            )
        if not self._free:
            raise StepError(
                f"Sequence {new.sequence} cannot be added, because the worker already has"
                f" {self._limits.max_sequences} sequences, the negotiated maximum.",
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
        check_token_ids(new.tokens, self.vocab_size)
        check_token_ids(new.encoder_tokens, self.vocab_size)
        if len(new.tokens) > limits.max_total_tokens or len(tables) != len(self._kinds):
            raise StepError(
                f"Sequence {new.sequence} has {len(new.tokens)} tokens and {len(tables)} block"
                f" tables. At most {limits.max_total_tokens} tokens and exactly"
                f" {len(self._kinds)} block tables were negotiated.",
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
                    f"Sequence {new.sequence} with {len(new.encoder_tokens)} encoder tokens has"
                    f" {len(table)} blocks in the cache group `{kind}`, but needs {needed}. A block"
                    f" table of the group `cross` has 1 to {self.cross_tables.shape[1]} blocks.",
                    retryable=False,
                )

    @property
    def has_scored_prompts(self) -> bool:
        """Whether a live sequence requests the logprobs of its prompt."""
        return self._num_scored > 0

    def mark_failed(self, rows: Rows) -> None:
        """Record that a step with these rows failed while later steps are in flight.

        Later rows of these sequences have no effect. The number of computed tokens of these
        sequences advances as if the failed rows had succeeded, so that the other rows of the later
        steps do not fail.
        """
        for handle, end in zip(rows.sequence.tolist(), rows.start + rows.count, strict=True):
            state = self._states.get(handle)
            if state is not None:
                state.has_failed = True
                self.num_computed_tokens[state.index] = end

    def find(self, handles: list[int]) -> tuple[list[SequenceState], Int64Array]:
        """Return the sequences with these handles, and the index of each sequence in the arrays.
        Raises `StepError` if a handle is not live.
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
        """Append the step's new blocks to the block tables of its rows. `indices` [n] contains, for
        each row of the step, the index of its sequence in the arrays.
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
                f"A sequence has {last} blocks, but the negotiated context length needs at most"
                f" {self.block_tables.shape[1]} blocks.",
                retryable=False,
            )
        self.block_tables[index, first:last] = blocks
        self.num_blocks[index] = last
