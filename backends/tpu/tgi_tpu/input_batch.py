"""Turns the rows of one step into the padded arrays of a bucket, in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from tgi.backend import Int32Array, Rows
from tgi.worker.step_checks import check_blocks, check_positions
from tgi_tpu.buckets import Buckets, StepShape
from tgi_tpu.sequences import Int64Array, SequenceState, SequenceTable

__all__ = ["InputBatch", "build_input_batch", "health_arrays", "padded"]


@final
@dataclass(frozen=True)
class InputBatch:
    """One step of n rows, ready to be sent to the device."""

    shape: StepShape
    states: list[SequenceState]  # [n]
    indices: Int64Array  # [n] the rows' places in the sequence table
    starts: Int64Array  # [n]
    lengths: Int64Array  # [n] context length after the step
    firsts: Int64Array  # [n] where each row's tokens begin among those of the step
    arrays: dict[str, Int32Array]  # the fields of `StepArrays`, padded
    history_rows: Int32Array  # [T] where each token stands in the history


def build_input_batch(
    rows: Rows, table: SequenceTable, buckets: Buckets, num_slots: int
) -> InputBatch:
    """Append the rows' new blocks to `table` and lay the step out; logits are wanted after the last
    token of sampled rows.

    `num_slots` is what padding has for a slot. Raises `StepError` if the step breaks the agreement.
    """
    states = table.find(rows.sequence.tolist())
    indices = np.fromiter((state.index for state in states), np.int64, rows.num_rows)
    starts, counts = rows.start.astype(np.int64), rows.count.astype(np.int64)
    ends = counts.cumsum()
    lengths, firsts = starts + counts, ends - counts
    check_positions(rows, table.num_computed_tokens, indices)
    table.append_blocks(rows, indices)
    check_blocks(rows, table.num_blocks, indices, lengths, table.block_size)
    row_of_token = np.repeat(np.arange(rows.num_rows), counts)
    positions = np.arange(rows.num_tokens) - np.repeat(firsts - starts, counts)
    size = table.block_size
    token_indices = indices[row_of_token]
    slots = (
        table.block_tables[token_indices, positions // size].astype(np.int64) * size
        + positions % size
    )
    shape = buckets.shape_for(rows.num_tokens, int(-(-lengths.max() // size)))
    tables = np.zeros((shape.num_sequences, shape.num_blocks), np.int32)
    tables[: rows.num_rows] = table.block_tables[indices, : shape.num_blocks]
    prompts = np.fromiter((len(state.prompt) for state in states), np.int64, rows.num_rows)
    arrays = {
        "token_ids": padded(rows.tokens, shape.num_tokens),
        "positions": padded(positions, shape.num_tokens),
        "slot_mapping": padded(slots, shape.num_tokens, num_slots),
        "cu_query_lens": padded(np.append(0, ends), shape.num_sequences + 1, rows.num_tokens),
        "context_lens": padded(lengths, shape.num_sequences),
        "block_tables": tables,
        "num_sequences": np.array([rows.num_rows], np.int32),
        "logit_indices": padded(ends[rows.sample != 0] - 1, shape.num_sequences),
        "rotary_lens": padded(np.maximum(prompts, lengths), shape.num_sequences),
    }
    history_rows = padded(token_indices, shape.num_tokens, len(table.num_blocks))
    return InputBatch(shape, states, indices, starts, lengths, firsts, arrays, history_rows)


def health_arrays(shape: StepShape, block: int, block_size: int) -> dict[str, Int32Array]:
    """The fields of `StepArrays` for token 0 at position 0 of a sequence in `block`."""
    tables = np.zeros((shape.num_sequences, shape.num_blocks), np.int32)
    tables[0, 0] = block
    return {
        "token_ids": np.zeros(shape.num_tokens, np.int32),
        "positions": np.zeros(shape.num_tokens, np.int32),
        "slot_mapping": padded(
            np.array([block * block_size]), shape.num_tokens, (block + 1) * block_size
        ),
        "cu_query_lens": padded(np.array([0, 1]), shape.num_sequences + 1, 1),
        "context_lens": padded(np.array([1]), shape.num_sequences),
        "block_tables": tables,
        "num_sequences": np.array([1], np.int32),
        "logit_indices": np.zeros(shape.num_sequences, np.int32),
        "rotary_lens": padded(np.array([1]), shape.num_sequences),
    }


def padded(values: Int32Array | Int64Array, size: int, filler: int = 0) -> Int32Array:
    """`values` as int32 [size], with `filler` behind them."""
    array = np.full(size, filler, np.int32)
    array[: len(values)] = values
    return array
