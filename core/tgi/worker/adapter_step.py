"""Runs one step of an adapter: builds a flat batch from the rows, and samples from the logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import numpy as np

from tgi.backend.records import Float32Array, Int32Array, SchedulerOutput, empty_int32
from tgi.worker.layout import StepLayout, fill_tokens, lay_out
from tgi.worker.sequences import Int64Array, SequenceTable
from tgi.worker.step_result import StepResult, is_scored, prompt_scores, row_masks

__all__ = ["ForwardBatch", "run_rows", "token_batch"]


@final
@dataclass(frozen=True)
class ForwardBatch:
    """The t tokens of the n rows of one step, in one flat array ordered by row.

    A slot is the index of one token's keys and values in the cache: `block * block_size + offset`.
    The model executes the copies first. Then it stores the keys and values of the tokens. Then it
    computes attention over `context_slots(row)`.
    """

    token_ids: Int32Array  # [t]
    positions: Int32Array  # [t]
    slot_mapping: Int32Array  # [t]
    cu_seqlens_q: Int32Array  # [n + 1] index of each row's first token; the last element is t
    seq_lens: Int32Array  # [n] length of the sequence, including the tokens of this step
    block_tables: tuple[Int32Array, ...]  # one table per row
    block_size: int
    logits_indices: Int32Array  # [k] indices of the tokens whose logits are returned, ascending
    copy_source: Int32Array = field(default_factory=empty_int32)  # slots to copy from
    copy_target: Int32Array = field(default_factory=empty_int32)  # slots to copy to

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.seq_lens)

    def context_slots(self, row: int) -> Int32Array:
        """Return the slots [seq_lens[row]] of all tokens of a row's sequence, from position 0."""
        positions = np.arange(self.seq_lens[row], dtype=np.int32)
        blocks = self.block_tables[row][positions // self.block_size]
        slots: Int32Array = blocks * self.block_size + positions % self.block_size
        return slots


def run_rows(
    step: SchedulerOutput,
    table: SequenceTable,
    forward: Callable[[ForwardBatch], Float32Array],
    vocab_size: int,
) -> StepResult:
    """Run the rows of a step, whose sequences are in `table`, and sample their tokens."""
    rows, result = step.rows, StepResult(step.rows.num_rows)
    masks = row_masks(step, vocab_size)
    if not rows.num_rows:
        return result
    layout = lay_out(rows, table)
    starts = layout.starts.tolist()
    scored = [is_scored(s, start) for s, start in zip(layout.states, starts, strict=True)]
    num_wanted = np.where(scored, layout.counts, rows.sample)
    logits = forward(_batch(step, layout, table, num_wanted))
    table.num_computed_tokens[layout.indices] = layout.lengths
    ends = num_wanted.cumsum()
    for row, state in enumerate(layout.states):
        own = logits[ends[row] - num_wanted[row] : ends[row]]
        length = int(layout.lengths[row])
        if scored[row]:
            result.scores += prompt_scores(state, starts[row], int(layout.counts[row]), own)
        if rows.sample[row]:
            mask = masks[row][0] if row in masks else None
            draw = float(rows.draw[row])
            result.sample(row, state, length, own[-1], draw=draw, allowed=mask)
    return result


def token_batch(block: int, block_size: int) -> ForwardBatch:
    """Return a batch with token 0 at position 0 of a sequence in `block`."""
    zero = np.zeros(1, np.int32)
    slot, table = np.array([block * block_size], np.int32), np.array([block], np.int32)
    return ForwardBatch(
        zero, zero, slot, np.arange(2, dtype=np.int32), zero + 1, (table,), block_size, zero
    )


def _batch(
    step: SchedulerOutput, layout: StepLayout, table: SequenceTable, num_wanted: Int64Array
) -> ForwardBatch:
    """Return the batch of a step. Logits are returned for the last `num_wanted` [n] tokens of each
    row.
    """
    first_wanted = np.repeat(layout.ends - num_wanted.cumsum(), num_wanted)
    copies = [_slots_of_blocks(blocks, table.block_size) for blocks in _copies(step)]
    return ForwardBatch(
        token_ids=fill_tokens(step.rows.tokens, layout, table).astype(np.int32),
        positions=layout.positions.astype(np.int32),
        slot_mapping=layout.slot_mapping.astype(np.int32),
        cu_seqlens_q=np.append(0, layout.ends).astype(np.int32),
        seq_lens=layout.lengths.astype(np.int32),
        block_tables=tuple(
            table.block_tables[index, : table.num_blocks[index]] for index in layout.indices
        ),
        block_size=table.block_size,
        logits_indices=(first_wanted + np.arange(num_wanted.sum())).astype(np.int32),
        copy_source=copies[0],
        copy_target=copies[1],
    )


def _copies(step: SchedulerOutput) -> tuple[Int32Array, Int32Array]:
    """Return the source and the target blocks of the copies."""
    if not step.copy_source:
        return empty_int32(), empty_int32()
    return step.copy_source[0], step.copy_target[0]


def _slots_of_blocks(blocks: Int32Array, block_size: int) -> Int32Array:
    offsets = np.arange(block_size, dtype=np.int32)
    return (blocks[:, None] * block_size + offsets).reshape(-1).astype(np.int32)
