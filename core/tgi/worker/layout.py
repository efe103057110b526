"""Computes, for each token of a step, its position in its sequence, the row of its sequence in
`SequenceTable`, and its place in the cache.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tgi.backend.records import TOKEN_ON_DEVICE, Int32Array, Rows
from tgi.worker.sequences import Int64Array, SequenceState, SequenceTable
from tgi.worker.step_checks import check_blocks, check_positions, check_token_ids

__all__ = ["StepLayout", "fill_tokens", "lay_out", "slots_of"]


class StepLayout(NamedTuple):
    """The n rows of one step and their T tokens, ordered by row."""

    states: list[SequenceState]  # [n]
    indices: Int64Array  # [n] rows in the sequence table
    starts: Int64Array  # [n] position of the row's first token
    counts: Int64Array  # [n] number of tokens of the row
    lengths: Int64Array  # [n] context length after the step
    ends: Int64Array  # [n] index among the T tokens after the row's last token
    token_indices: Int64Array  # [T] rows in the sequence table
    positions: Int64Array  # [T] in the sequence
    slot_mapping: Int64Array  # [T] block * block_size + offset
    num_blocks: int  # number of blocks of the longest sequence after the step


def lay_out(rows: Rows, table: SequenceTable) -> StepLayout:
    """Append the new blocks of the rows to `table` and compute the positions of the rows' tokens.
    Raises `StepError` if the rows do not match the sequences in `table`.
    """
    states, indices = table.find(rows.sequence.tolist())
    starts, counts = rows.start.astype(np.int64), rows.count.astype(np.int64)
    lengths, ends = starts + counts, counts.cumsum()
    check_positions(rows, table.num_computed_tokens, indices)
    table.append_blocks(rows, indices)
    if table.has_blocks:
        check_blocks(rows, table.num_blocks, indices, lengths, table.block_size)
    if rows.num_tokens == rows.num_rows:  # every row has one token
        token_indices, positions = indices, starts
    else:
        token_indices = np.repeat(indices, counts)
        positions = np.arange(rows.num_tokens) - np.repeat(ends - lengths, counts)
    slots = slots_of(table.block_tables, token_indices, positions, table.block_size)
    num_blocks = (int(lengths.max()) - 1) // table.block_size + 1
    return StepLayout(
        states,
        indices,
        starts,
        counts,
        lengths,
        ends,
        token_indices,
        positions,
        slots,
        num_blocks,
    )


def fill_tokens(tokens: Int32Array, layout: StepLayout, table: SequenceTable) -> Int64Array:
    """Return the token ids [T] of a step, and store them in `table`. Each `TOKEN_ON_DEVICE` is
    replaced by the token that the worker sampled for the sequence.

    Raises `StepError` if a token id in a step with a prefill is not below `table.vocab_size`.
    """
    token_ids = tokens.astype(np.int64)
    places = layout.token_indices, layout.positions
    if token_ids.min() < 0:
        unknown = token_ids == TOKEN_ON_DEVICE
        token_ids[unknown] = table.tokens[places[0][unknown], places[1][unknown]]
    # A step of decode rows needs no check. Its token ids were sampled by the worker, or they were
    # sent when the sequence was introduced.
    if layout.positions.size > layout.indices.size:
        check_token_ids(token_ids, table.vocab_size)
    table.tokens[places] = token_ids
    return token_ids


def slots_of(
    tables: Int32Array, indices: Int64Array, positions: Int64Array, block_size: int
) -> Int64Array:
    """Return the cache slot of each token. `indices` are the rows of the tokens in `tables`, and
    `positions` are the positions of the tokens in their sequences.
    """
    blocks = tables[indices, positions // block_size].astype(np.int64)
    return blocks * block_size + positions % block_size
