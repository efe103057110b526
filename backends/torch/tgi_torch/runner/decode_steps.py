"""Steps in which every row has one token and chooses the next, without laying the step out anew
while the same rows go on.

For one user such a step costs little more than a reading of the weights, so what stands around it
counts. The arrays of a batch stay where they are: from step to step tokens are exchanged and
positions advance, until a row changes or comes to the end of a block.
"""

from __future__ import annotations

from collections.abc import Callable
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
from tgi.worker.step_output import SampledTokens, step_output
from tgi_torch.attention.paged import AttentionMetadata
from tgi_torch.runner.input_batch import build_input_batch
from tgi_torch.sampling.protocols import SampledSequence

__all__ = ["BoundProgram", "DecodeProgram", "DecodeSteps"]

_HOST = torch.device("cpu")


class BoundProgram(Protocol):
    """A decode program over the tensors of a batch."""

    def forward(self) -> object:
        """Compute what comes after each row's token."""

    def sample(self, lengths: Int32Array, draws: Float32Array) -> SampledTokens:
        """Choose from what `forward` computed, as `TokenSampler.sample`."""


class DecodeProgram(Protocol):
    """What a model in host memory may do besides: layers, head and choice of tokens for rows of one
    token each.
    """

    @property
    def max_rows(self) -> int:
        """Rows it can take at once."""

    def bind(
        self, token_ids: Tensor, metadata: AttentionMetadata, sequences: list[SampledSequence]
    ) -> BoundProgram:
        """The program over n rows. It reads the tensors anew at each call, for they change in
        place; the lengths on the host do not, and are not to be read. The caller keeps the tensors
        as long as the program.
        """


@final
class DecodeSteps:
    """Runs such steps. Belongs to one runner."""

    def __init__(
        self, program: DecodeProgram, sequences: SequenceTable, clock: Callable[[], int]
    ) -> None:
        self._program = program
        self._sequences = sequences
        self._clock = clock
        self._batch: _DecodeBatch | None = None

    def forget(self) -> None:
        """A sequence was dropped: its handle may soon mean another one."""
        self._batch = None

    def run(self, step: SchedulerOutput, began: int) -> ModelRunnerOutput | None:
        """Run a step whose drops, additions and copies are done and which began at the time
        `began`.

        None = it is of another kind. Raises `StepError` if it breaks the agreement.
        """
        rows = step.rows
        batch, self._batch = (
            self._batch,
            None,
        )  # until the step has succeeded nothing is known of the rows
        if step.mask != "none":
            return None
        if batch is None or not batch.precedes(rows):
            if not self._is_decode(rows):
                return None
            batch = None
        if batch is None or not batch.advance(rows):
            batch = _DecodeBatch(rows, self._sequences, self._program)
        prepared = self._clock()
        batch.program.forward()
        computed = self._clock()
        chosen = batch.program.sample(batch.lengths, rows.draw)
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
    """The rows of such a step, and the program over their arrays. n rows."""

    def __init__(self, rows: Rows, table: SequenceTable, program: DecodeProgram) -> None:
        """Lay them out. Raises `StepError` if they break the agreement."""
        batch = build_input_batch(rows, table, _HOST)
        metadata = batch.metadata
        self._table = table
        self._tensors = batch  # the program reads all of them
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
        self._next_places = (
            self._indices * table.tokens.shape[1] + self._positions + 1
        )  # of the chosen tokens in there
        self._chosen = empty_int32()
        self._token_ptr = np.arange(rows.num_rows + 1, dtype=np.int32)
        self._no_ids, self._no_logprobs = empty_int32(), empty_float32()
        # Further steps in which no row comes to another block.
        self._num_left = table.block_size - 1 - int((self._positions % table.block_size).max())
        self.lengths: Int32Array = metadata.seq_lens.numpy()  # [n] context length after the step
        self.program = program.bind(batch.token_ids, metadata, [*batch.layout.states])

    def precedes(self, rows: Rows) -> bool:
        """Whether `rows` are those of the step after this one."""
        return (
            rows.start.tobytes() == self.lengths.tobytes()
            and rows.sequence.tobytes() == self._handles
            and rows.count.tobytes() == self._counts
            and rows.sample.tobytes() == self._samples
            and len(rows.tokens) == len(self.lengths)
        )

    def advance(self, rows: Rows) -> bool:
        """Go on to the step after this one; False = a row comes to another block, and all have to
        be laid out anew.
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
        """The step succeeded with these tokens [n]; they are what `TOKEN_ON_DEVICE` stands for in
        the next one.
        """
        self._chosen = tokens
        self._table_tokens[self._next_places] = tokens
        self._table.num_computed_tokens[self._indices] = self.lengths

    def output(
        self, step: SchedulerOutput, chosen: SampledTokens, times: StepTimes
    ) -> ModelRunnerOutput:
        """The answer where every row has a token and none asked for the most likely ones."""
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
    """The tensor's own memory."""
    array: npt.NDArray[np.int64] = tensor.numpy()
    return array
