"""A step that is being built, a step in flight, and the result of a step.

A step can have hundreds of rows. Rows are stored in one list per field, because the creation of one
object per row would take more time than the rest of the scheduler.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import final

import msgspec
import numpy as np

from tgi.backend import (
    TOKEN_ON_DEVICE,
    Float32Array,
    Int32Array,
    ModelRunnerOutput,
    NewSequence,
    Rows,
    SchedulerOutput,
    empty_float32,
    empty_int32,
)
from tgi.scheduler.draw import uniform_draws
from tgi.scheduler.kv_cache_manager import KVCacheManager
from tgi.scheduler.records import SchedulerStats
from tgi.scheduler.sequence import Sequence
from tgi.scheduler.state_snapshots import StateCopy

__all__ = [
    "RowLayout",
    "StepBuilder",
    "StepInFlight",
    "StepResult",
]

TopTokens = tuple[tuple[int, float], ...]


@final
@dataclass(slots=True, frozen=True)
class StepInFlight:
    """A scheduled step whose result has not arrived. `stats` contains the counters of the step. The
    gauges in `stats` are 0.

    The result of a row is ignored if its sequence was removed from the worker after the row was
    scheduled. `epochs` contains the number of removals of each sequence at that time.
    """

    step_id: int
    sequences: list[Sequence]  # [n] sequence of each row
    epochs: list[int]  # [n] `Sequence.epoch` when the row was scheduled
    handles: list[int]  # [n]
    counts: list[int]  # [n]
    samples: list[bool]  # [n]
    # Maps a row to its maximum number of sampled tokens, if this maximum is above 1.
    budgets: dict[int, int]
    stats: SchedulerStats
    copies: list[StateCopy]

    def valid_rows(self) -> list[int]:
        """Return the rows whose sequences were not removed from the worker after the step was
        scheduled.
        """
        pairs = zip(self.sequences, self.epochs, strict=True)
        return [row for row, (sequence, epoch) in enumerate(pairs) if sequence.epoch == epoch]


@final
@dataclass(slots=True)
class StepBuilder:
    """Collects the rows of a step and then builds all arrays of the step. Decode rows are added
    before prefill rows.
    """

    step_id: int
    token_budget: int
    row_budget: int
    # The lists up to `samples` have one entry per row.
    sequences: list[Sequence] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    samples: list[bool] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)  # token ids of all rows, row after row
    added: list[NewSequence] = field(default_factory=list)
    # Maps a row to its maximum number of sampled tokens, if this maximum is above 1.
    budgets: dict[int, int] = field(default_factory=dict)
    copies: list[StateCopy] = field(default_factory=list)  # before the rows run
    num_prefill_rows: int = 0
    num_new_sequences: int = 0  # sequences that run for the first time
    # If set, the encoder tokens in this step exceed the budget, so no further row may be added.
    is_exclusive: bool = False

    def add_rows(self, sequences: Iterable[Sequence], count: int) -> None:
        """For each sequence, add one row that computes its next `count` tokens. The block tables
        must be long enough. If a row includes the last token of its sequence, a token is sampled
        for the row.
        """
        num_rows = len(self.sequences)
        for sequence in sequences:
            token_ids, start = sequence.token_ids, sequence.num_submitted_tokens
            num_known, end = len(token_ids), start + count
            sample = end == num_known + sequence.num_pending_tokens
            self.sequences.append(sequence)
            self.starts.append(start)
            self.samples.append(sample)
            if start < num_known:
                self.token_ids += token_ids[start:end]
            else:
                self.token_ids.append(TOKEN_ON_DEVICE)
            sequence.num_submitted_tokens = end
            sequence.num_pending_tokens += sample
            sequence.last_step_id = self.step_id
        num_added = len(self.sequences) - num_rows
        self.counts += [count] * num_added
        self.row_budget -= num_added
        self.token_budget = 0 if self.is_exclusive else self.token_budget - count * num_added

    def open_row(self, row: int, max_tokens: int) -> None:
        """Allow up to `max_tokens` sampled tokens for a decode row. The row's sequence must already
        have the blocks for these tokens.
        """
        if max_tokens > 1:
            self.budgets[row] = max_tokens
            self.sequences[row].has_open_row = True

    def has_budget(self, sequence: Sequence) -> bool:
        """Whether a sequence may start in this step. All encoder tokens of the sequence run in its
        first step. They may exceed the token budget only if the step has no other row.
        """
        return self.row_budget > 0 and self.token_budget > (
            sequence.num_encoder_tokens if self.sequences else 0
        )

    def charge_encoder(self, sequence: Sequence) -> None:
        """Subtract the encoder tokens of `sequence` from the token budget. If the step has no row
        yet, the remaining budget is at least the number of tokens in the sequence's own row.
        """
        is_alone = not self.sequences
        own = (
            min(sequence.num_prefill_tokens - sequence.num_submitted_tokens, self.token_budget)
            if is_alone
            else 0
        )
        left = self.token_budget - sequence.num_encoder_tokens
        self.is_exclusive = left < own
        self.token_budget = max(left, own)

    def introduce(self, sequence: Sequence, cache: KVCacheManager) -> None:
        """Add the record that introduces a sequence to the worker, before the sequence's first
        row. The record contains all data of the sequence.
        """
        self.added.append(_new_sequence(sequence, cache.tables(sequence)))
        if cache.snapshots is not None and sequence.restored_state >= 0:
            self.copies.append(cache.snapshots.restore(sequence))
        sequence.num_sent_blocks = len(sequence.block_table)

    def build(
        self, dropped: list[int], cache: KVCacheManager, tokens_per_step: int, layout: RowLayout
    ) -> SchedulerOutput:
        """Return the step as a record for the worker. `layout` is the layout of its rows."""
        counts = [
            len(sequence.block_table) - sequence.num_sent_blocks for sequence in self.sequences
        ]
        pointers, appended = (
            cache.growth(self._take_new_blocks(counts), counts) if any(counts) else layout.no_growth
        )
        rows = Rows(
            sequence=layout.handle_array,
            start=np.array(self.starts, np.int32),
            count=layout.count_array,
            tokens=np.array(self.token_ids, np.int32),
            sample=layout.sample_array,
            draw=layout.draws(),
            new_block_ptr=pointers,
            new_blocks=appended,
            max_tokens=self._max_tokens() if tokens_per_step > 1 else empty_int32(),
            extra_draw=self._extra_draws() if self.budgets else empty_float32(),
        )
        copies = cache.copies(self.copies) if self.copies else ([], [])
        return SchedulerOutput(self.step_id, dropped, self.added, rows, *copies)

    def in_flight(self, stats: SchedulerStats, layout: RowLayout) -> StepInFlight:
        """Return the data of the step that the scheduler needs when the result arrives."""
        handles, epochs = layout.handles, layout.epochs
        return StepInFlight(
            self.step_id,
            self.sequences,
            epochs,
            handles,
            self.counts,
            self.samples,
            self.budgets,
            stats,
            self.copies,
        )

    def _take_new_blocks(self, counts: list[int]) -> list[int]:
        """Return the blocks that were not sent to the worker yet, row after row, and mark these
        blocks as sent. `counts` [n] is the number of these blocks of each row.
        """
        blocks = list[int]()
        for row in [row for row, count in enumerate(counts) if count]:
            sequence = self.sequences[row]
            blocks += sequence.block_table[sequence.num_sent_blocks :]
            sequence.num_sent_blocks = len(sequence.block_table)
        return blocks

    def _max_tokens(self) -> Int32Array:
        """Return the maximum number of sampled tokens of each row [n]."""
        max_tokens = np.ones(len(self.sequences), np.int32)
        max_tokens[list(self.budgets)] = list(self.budgets.values())
        return max_tokens

    def _extra_draws(self) -> Float32Array:
        """Return the draws of the second and all further tokens of each row that allows several
        tokens, row after row. The draws of greedy rows are 0.
        """
        draws = []
        for row, max_tokens in sorted(self.budgets.items()):
            sequence, num_extra = self.sequences[row], max_tokens - 1
            if sequence.request.sampling.greedy:
                draws.append(np.zeros(num_extra, np.float32))
                continue
            first = sequence.num_submitted_tokens - sequence.num_prompt_tokens + 1
            indices = np.arange(first, first + num_extra, dtype=np.uint64)
            draws.append(uniform_draws(np.full(num_extra, sequence.seed, np.uint64), indices))
        return np.concatenate(draws)


def _new_sequence(sequence: Sequence, tables: list[Int32Array]) -> NewSequence:
    """Return the record that introduces a running sequence to the worker. `tables` has one block
    table per cache group.
    """
    request = sequence.request
    sampling = request.sampling
    if sampling.prompt_logprobs and sequence.is_prompt_scored:
        sampling = msgspec.structs.replace(sampling, prompt_logprobs=False)
    return NewSequence(
        sequence=sequence.handle,
        request_id=request.request_id,
        tokens=np.array(sequence.token_ids, np.int32),
        num_prompt_tokens=sequence.num_prompt_tokens,
        num_computed_tokens=sequence.num_computed_tokens,
        block_tables=tables,
        sampling=sampling,
        sequence_slot=-1 if tables else sequence.sequence_slot,
        max_total_tokens=sequence.max_tokens,
        adapter=request.adapter,
        is_masked=sequence.constraint is not None,
        encoder_tokens=np.array(request.encoder_token_ids, np.int32),
    )


@final
class RowLayout:
    """The arrays that all steps with the same rows have in common. A decoding batch has the same
    rows in many consecutive steps. The arrays are never modified.
    """

    def __init__(self, step: StepBuilder, cache: KVCacheManager) -> None:
        self._sequences, self._counts, self._samples = step.sequences, step.counts, step.samples
        self.epochs = [sequence.epoch for sequence in step.sequences]
        self.handles = [sequence.handle for sequence in step.sequences]
        self.handle_array = np.array(self.handles, np.int32)
        self.count_array = np.array(step.counts, np.int32)
        self.sample_array = np.array(step.samples, np.uint8)
        self.no_growth = cache.growth([], [0] * len(step.sequences))
        self._no_draws = np.zeros(len(step.sequences), np.float32)
        pairs = zip(step.sequences, step.samples, strict=True)
        self._drawn = [
            row
            for row, (sequence, sample) in enumerate(pairs)
            if sample and not sequence.request.sampling.greedy
        ]
        self._seeds = np.array([step.sequences[row].seed for row in self._drawn], np.uint64)
        pairs = zip(step.sequences, step.samples, strict=True)
        # Rows that sample a token of a constrained sequence.
        self.constrained = [
            row
            for row, (each, sample) in enumerate(pairs)
            if sample and each.constraint is not None
        ]

    def fits(self, step: StepBuilder) -> bool:
        """Whether `step` has the same rows. The result is False for a step that introduces
        sequences, because a preempted sequence may get a new handle.
        """
        same = (
            step.sequences == self._sequences
            and step.counts == self._counts
            and step.samples == self._samples
        )
        return same and not step.added

    def draws(self) -> Float32Array:
        """Return one draw per row, for the step that was built last. The draw is 0 for a greedy row
        and for a row without a sampled token.
        """
        if not self._drawn:
            return self._no_draws
        sequences = [self._sequences[row] for row in self._drawn]
        ends = [
            sequence.num_submitted_tokens - sequence.num_prompt_tokens for sequence in sequences
        ]
        draws = self._no_draws.copy()
        draws[self._drawn] = uniform_draws(self._seeds, np.array(ends, np.uint64))
        return draws


@final
class StepResult:
    """The rows of a `ModelRunnerOutput` in the order of the step, as Python lists.

    The arrays are converted once, because the access to one element is faster in a list than in an
    array.
    """

    def __init__(self, output: ModelRunnerOutput, handles: list[int]) -> None:
        """Read `output`, which has the rows of the step in any order. Raises RuntimeError if a row
        is missing.
        """
        ids = output.tokens.tolist()
        logprobs = [value if value == value else None for value in output.logprobs.tolist()]  # noqa: PLR0124 - NaN test
        top = _top_tokens(output) if len(output.top_ptr) else []
        ptr, returned = output.token_ptr.tolist(), output.sequence.tolist()
        self.token_ids: list[list[int]]  # [rows of the step]
        self.logprobs: list[list[float | None]]  # [rows of the step]
        if returned == handles and ptr == list(range(len(ptr))) and not top:
            # In the common case of one token per row, this code takes half the time.
            self.token_ids = list(map(list, zip(ids, strict=True)))
            self.logprobs = list(map(list, zip(logprobs, strict=True)))
            self.top: list[list[TopTokens]] = [[]] * len(handles)
        else:
            tokens_of = list(map(slice, ptr, ptr[1:]))
            if returned != handles:
                tokens_of = _reordered(tokens_of, output.step_id, returned, handles)
            self.token_ids = list(map(ids.__getitem__, tokens_of))
            self.logprobs = list(map(logprobs.__getitem__, tokens_of))
            self.top = list(map(top.__getitem__, tokens_of))
        self.errors = {error.sequence: error.message for error in output.errors}  # by handle
        self.scores = {scores.sequence: scores for scores in output.prompt_scores}  # by handle


def _reordered(
    tokens_of: list[slice], step_id: int, returned: list[int], handles: list[int]
) -> list[slice]:
    """Return the slices of the rows `returned` in the order of `handles`."""
    slice_of = dict(zip(returned, tokens_of, strict=True))
    missing = [handle for handle in handles if handle not in slice_of]
    if missing:
        raise RuntimeError(
            f"the worker returned step {step_id} without the rows of sequences {missing}"
        )
    return [slice_of[handle] for handle in handles]


def _top_tokens(output: ModelRunnerOutput) -> list[TopTokens]:
    """Return the top tokens of every sampled token."""
    top = list(zip(output.top_ids.tolist(), output.top_logprobs.tolist(), strict=True))
    return [tuple(top[first:last]) for first, last in pairwise(output.top_ptr.tolist())]
