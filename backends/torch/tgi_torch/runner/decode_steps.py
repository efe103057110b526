"""Runs decode-only steps, in which each row has one token and the next token is sampled for it. The
arrays of a batch are reused as long as the rows are the same.

With one sequence, such a step takes little more time than one read of all weights, so the overhead
of the step is significant. The arrays of a batch are therefore updated in place: from step to step,
tokens are replaced and positions advance, until the rows change or a row needs a new block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tgi.backend import (
    TOKEN_ON_DEVICE,
    Float32Array,
    Int32Array,
    ModelRunnerOutput,
    Rows,
    SchedulerOutput,
    StepTimes,
    empty_float32,
    empty_int32,
)
from tgi.worker.sequences import SequenceTable
from tgi.worker.step_checks import mask_words
from tgi.worker.step_output import SampledTokens, step_output
from tgi_torch.attention.paged import AttentionMetadata
from tgi_torch.runner.input_batch import build_input_batch
from tgi_torch.sampling.protocols import SampledSequence

__all__ = ["BoundProgram", "DecodeProgram", "DecodeSteps"]

_HOST = torch.device("cpu")


class BoundProgram(Protocol):
    """A decode program that is bound to the tensors of a batch."""

    def forward(self) -> object:
        """Run the forward pass of each row's token."""

    def sample(
        self,
        lengths: Int32Array,
        draws: Float32Array,
        mask: tuple[Sequence[int], Int32Array] | None = None,
    ) -> SampledTokens:
        """Sample from the logits of `forward`, as `TokenSampler.sample` does."""


class DecodeProgram(Protocol):
    """A program that a model in host memory may provide. For rows of one token each it runs the
    layers, the head and the sampler.
    """

    @property
    def max_rows(self) -> int:
        """Maximum number of rows."""

    def bind(
        self, token_ids: Tensor, metadata: AttentionMetadata, sequences: list[SampledSequence]
    ) -> BoundProgram:
        """Bind the program to the tensors of n rows. The tensors are updated in place, so the
        program must read them at each call. The tuples `metadata.query_lens` and
        `metadata.context_lens` are not updated, and the program must not read them. The caller
        keeps a reference to the tensors for as long as it uses the program.
        """


@final
class DecodeSteps:
    """Runs the decode-only steps of one runner."""

    def __init__(
        self, program: DecodeProgram, sequences: SequenceTable, clock: Callable[[], int]
    ) -> None:
        self._program = program
        self._sequences = sequences
        self._clock = clock
        self._batch: _DecodeBatch | None = None

    def forget(self) -> None:
        """Forget the batch, because a sequence was dropped and its handle may be used again."""
        self._batch = None

    def run(self, step: SchedulerOutput, began: int) -> ModelRunnerOutput | None:
        """Run a decode-only step whose drops, additions and copies have been processed. `began` is
        the time at which the step began, in ns.

        Returns None if the step is not a decode-only step. Raises `StepError` if the step exceeds
        the negotiated limits.
        """
        rows = step.rows
        # The batch is reused only if this step succeeds.
        batch, self._batch = self._batch, None
        if batch is None or not batch.precedes(rows):
            if not self._is_decode(rows):
                return None
            batch = None
        if batch is None or not batch.advance(rows):
            batch = _DecodeBatch(rows, self._sequences, self._program)
        prepared = self._clock()
        batch.program.forward()
        computed = self._clock()
        masks = None
        if step.mask != "none":
            masks = mask_words(step, self._sequences.vocab_size)
        if masks is None:
            chosen = batch.program.sample(batch.lengths, rows.draw)
        else:
            mask = masks[0].tolist(), np.ascontiguousarray(masks[1])
            chosen = batch.program.sample(batch.lengths, rows.draw, mask)
        batch.note(chosen.tokens)
        self._batch = batch
        times = StepTimes(prepared - began, computed - prepared, self._clock() - computed)
        if chosen.problems or len(chosen.top_ids):
            return step_output(step, chosen, np.arange(rows.num_rows), [], times)
        return batch.output(step, chosen, times)

    def _is_decode(self, rows: Rows) -> bool:
        return (
            rows.num_tokens == rows.num_rows <= self._program.max_rows
            and bool((rows.count == 1).all() and rows.sample.all())
            and not self._sequences.has_scored_prompts
        )


@final
class _DecodeBatch:
    """The n rows of a decode-only step, and the program that is bound to their arrays."""

    def __init__(self, rows: Rows, table: SequenceTable, program: DecodeProgram) -> None:
        """Build the arrays. Raises `StepError` if the rows exceed the negotiated limits."""
        batch = build_input_batch(rows, table, _HOST)
        metadata = batch.metadata
        self._table = table
        self._tensors = batch  # keeps the tensors that the program reads
        self._token_ids = _array(batch.token_ids)
        self._positions = _array(metadata.positions)
        self._slots = _array(metadata.slot_mapping)
        self._indices = batch.layout.indices
        self._handles, self._counts, self._samples = (
            rows.sequence.tobytes(),
            rows.count.tobytes(),
            rows.sample.tobytes(),
        )
        self._table_tokens = table.tokens.reshape(-1)
        # Indices of the chosen tokens in `_table_tokens`.
        self._next_places = self._indices * table.tokens.shape[1] + self._positions + 1
        self._chosen = empty_int32()
        self._token_ptr = np.arange(rows.num_rows + 1, dtype=np.int32)
        self._no_ids, self._no_logprobs = empty_int32(), empty_float32()
        # Number of further steps in which no row needs a new block.
        self._num_left = table.block_size - 1 - int((self._positions % table.block_size).max())
        self.lengths: Int32Array = metadata.seq_lens.numpy()  # [n] context length after the step
        self.program = program.bind(batch.token_ids, metadata, [*batch.layout.states])

    def precedes(self, rows: Rows) -> bool:
        """Whether `rows` are the rows of the step after this one."""
        return (
            rows.start.tobytes() == self.lengths.tobytes()
            and rows.sequence.tobytes() == self._handles
            and rows.count.tobytes() == self._counts
            and rows.sample.tobytes() == self._samples
            and len(rows.tokens) == len(self.lengths)
        )

    def advance(self, rows: Rows) -> bool:
        """Advance to the next step with the same rows. Returns False if a row needs a new block.
        Then a new batch must be built.
        """
        if not self._num_left:
            return False
        self._num_left -= 1
        self._table.append_blocks(rows, self._indices)
        if rows.tokens.tobytes() == self._chosen.tobytes():
            self._token_ids[:] = rows.tokens
        else:
            known = self._table_tokens[self._next_places]
            self._token_ids[:] = np.where(rows.tokens == TOKEN_ON_DEVICE, known, rows.tokens)
            self._table_tokens[self._next_places] = self._token_ids
        self._positions += 1
        self._slots += 1
        self._next_places += 1
        self.lengths += 1
        return True

    def note(self, tokens: Int32Array) -> None:
        """Store the tokens [n] of a successful step. In the next step, `TOKEN_ON_DEVICE` refers to
        these tokens.
        """
        self._chosen = tokens
        self._table_tokens[self._next_places] = tokens
        self._table.num_computed_tokens[self._indices] = self.lengths

    def output(
        self, step: SchedulerOutput, chosen: SampledTokens, times: StepTimes
    ) -> ModelRunnerOutput:
        """Return the output of a step in which every row has a token and no top tokens were
        requested.
        """
        none, tokens = self._no_ids, chosen.tokens
        return ModelRunnerOutput(
            step.step_id,
            step.rows.sequence,
            self._token_ptr,
            tokens,
            chosen.logprobs,
            none,
            none,
            self._no_logprobs,
            times=times,
        )


def _array(tensor: Tensor) -> npt.NDArray[np.int64]:
    """Return an array that shares the tensor's memory."""
    array: npt.NDArray[np.int64] = tensor.numpy()
    return array
