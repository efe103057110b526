"""One step in the making, and one step in flight."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import msgspec
import numpy as np

from tgi.backend import TOKEN_ON_DEVICE, Float32Array, NewSequence, Rows, SchedulerOutput, empty_int32
from tgi.scheduler.draw import uniform_draws
from tgi.scheduler.kv_cache_manager import KVCacheManager
from tgi.scheduler.records import SchedulerStats
from tgi.scheduler.sequence import Sequence

__all__ = ["Row", "StepBuilder", "StepInFlight"]


@final
@dataclass(slots=True, frozen=True)
class Row:
    """One row of a step in flight. It has an effect only while the sequence is still in the same residence."""

    sequence: Sequence
    residence: int
    handle: int
    count: int
    sample: bool

    @property
    def is_valid(self) -> bool:
        """Whether the sequence has neither ended nor left the worker since."""
        return self.sequence.residence == self.residence


@final
@dataclass(slots=True)
class StepInFlight:
    """A step that was decided and whose result has not come yet. `stats` holds its counters; the gauges are empty."""

    step_id: int
    rows: list[Row]
    stats: SchedulerStats


@final
@dataclass(slots=True)
class StepBuilder:
    """Collects rows, then makes the arrays of the step at once. Decode rows are added before prefill rows."""

    step_id: int
    token_budget: int
    rows: list[Row] = field(default_factory=list)
    added: list[NewSequence] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    output_indices: list[int] = field(default_factory=list)
    new_blocks: list[int] = field(default_factory=list)
    new_block_ptr: list[int] = field(default_factory=lambda: [0])
    num_prefill_rows: int = 0
    num_new_sequences: int = 0  # that run for the first time
    is_exclusive: bool = False  # an encoder beyond the budget is in it: its own row is the only one

    def add_row(self, sequence: Sequence, count: int) -> None:
        """Run the next `count` tokens of a sequence, whose table is long enough, and choose a token if they are its last ones."""
        start = sequence.num_submitted_tokens
        end = start + count
        sample = end == len(sequence.token_ids) + sequence.num_pending_tokens
        self.rows.append(Row(sequence, sequence.residence, sequence.handle, count, sample))
        self.starts.append(start)
        self.output_indices.append(end - sequence.num_prompt_tokens)
        if start < len(sequence.token_ids):
            self.token_ids += sequence.token_ids[start:end]
        else:
            self.token_ids.append(TOKEN_ON_DEVICE)
        if sequence.num_sent_blocks < len(sequence.block_table):
            self.new_blocks += sequence.block_table[sequence.num_sent_blocks :]
            sequence.num_sent_blocks = len(sequence.block_table)
        self.new_block_ptr.append(len(self.new_blocks))
        self.token_budget = 0 if self.is_exclusive else self.token_budget - count
        sequence.num_submitted_tokens = end
        sequence.num_pending_tokens += sample
        sequence.last_step_id = self.step_id

    def has_budget(self, sequence: Sequence) -> bool:
        """Whether a sequence may start here. An encoder runs whole: alone in a step at any length, else within the budget."""
        return self.token_budget > (sequence.num_encoder_tokens if self.rows else 0)

    def charge_encoder(self, sequence: Sequence) -> None:
        """Take the encoder's tokens from the budget. Alone in the step, the sequence's own row keeps what it needs of it."""
        own = 0 if self.rows else min(sequence.num_prefill_tokens - sequence.num_submitted_tokens, self.token_budget)
        left = self.token_budget - sequence.num_encoder_tokens
        self.is_exclusive = left < own
        self.token_budget = max(left, own)

    def introduce(self, sequence: Sequence, cache: KVCacheManager) -> None:
        """Tell the worker everything about a sequence, before its first row."""
        sampling = sequence.sampling
        if sampling.prompt_logprobs and sequence.is_prompt_scored:
            sampling = msgspec.structs.replace(sampling, prompt_logprobs=False)
        tables = cache.tables(sequence)
        sequence.num_sent_blocks = len(sequence.block_table)
        self.added.append(
            NewSequence(
                sequence=sequence.handle,
                request_id=sequence.request_id,
                tokens=np.array(sequence.token_ids, np.int32),
                num_prompt_tokens=sequence.num_prompt_tokens,
                num_computed_tokens=sequence.num_computed_tokens,
                block_tables=tables,
                sampling=sampling,
                slot=-1 if tables else sequence.slot,
                max_total_tokens=sequence.max_tokens,
                adapter=sequence.adapter,
                encoder_tokens=np.array(sequence.encoder_token_ids, np.int32),
            )
        )

    def build(self, dropped: list[int], cache: KVCacheManager, tokens_per_step: int) -> SchedulerOutput:
        """The step."""
        num_rows = len(self.rows)
        pointers, appended = cache.growth(self.new_blocks, self.new_block_ptr)
        rows = Rows(
            sequence=np.array([row.handle for row in self.rows], np.int32),
            start=np.array(self.starts, np.int32),
            count=np.array([row.count for row in self.rows], np.int32),
            tokens=np.array(self.token_ids, np.int32),
            sample=np.array([row.sample for row in self.rows], np.uint8),
            draw=self._draws(),
            new_block_ptr=pointers,
            new_blocks=appended,
            max_tokens=np.ones(num_rows, np.int32) if tokens_per_step > 1 else empty_int32(),
        )
        return SchedulerOutput(self.step_id, dropped, self.added, rows)

    def _draws(self) -> Float32Array:
        """A draw per row; 0 where no token is drawn."""
        draws = np.zeros(len(self.rows), np.float32)
        drawn = [i for i, row in enumerate(self.rows) if row.sample and not row.sequence.sampling.greedy]
        if drawn:
            seeds = np.array([self.rows[i].sequence.seed for i in drawn], np.uint64)
            draws[drawn] = uniform_draws(seeds, np.array([self.output_indices[i] for i in drawn], np.uint64))
        return draws
