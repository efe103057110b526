"""Converts the rows of one step to the padded numpy arrays of a bucket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from tgi.backend import Int32Array, Rows
from tgi.worker.buckets import Buckets, StepShape, padded
from tgi.worker.layout import StepLayout, lay_out
from tgi.worker.sequences import SequenceTable

__all__ = ["InputBatch", "build_input_batch", "health_arrays"]


@final
@dataclass(frozen=True)
class InputBatch:
    """One step, ready to be sent to the device."""

    shape: StepShape
    layout: StepLayout
    arrays: dict[str, Int32Array]  # the fields of `StepArrays`, padded
    history_rows: Int32Array  # [T], the history row of each token's sequence


def build_input_batch(
    rows: Rows, table: SequenceTable, buckets: Buckets, num_slots: int
) -> InputBatch:
    """Append the rows' new blocks to `table` and build the arrays of the step. Logits are computed
    after the last token of each sampled row.

    Padding has the slot `num_slots`. Raises `StepError` if the step exceeds the negotiated limits.
    """
    layout = lay_out(rows, table)
    states, lengths = layout.states, layout.lengths
    shape = buckets.shape_for(rows.num_tokens, layout.num_blocks)
    tables = np.zeros((shape.num_sequences, shape.num_blocks), np.int32)
    tables[: rows.num_rows] = table.block_tables[layout.indices, : shape.num_blocks]
    prompts = np.fromiter((state.num_prompt_tokens for state in states), np.int64, rows.num_rows)
    arrays = {
        "token_ids": padded(rows.tokens, shape.num_tokens),
        "positions": padded(layout.positions, shape.num_tokens),
        "slot_mapping": padded(layout.slot_mapping, shape.num_tokens, num_slots),
        "cu_query_lens": padded(
            np.append(0, layout.ends), shape.num_sequences + 1, rows.num_tokens
        ),
        "context_lens": padded(lengths, shape.num_sequences),
        "block_tables": tables,
        "num_sequences": np.array([rows.num_rows], np.int32),
        "logit_indices": padded(layout.ends[rows.sample != 0] - 1, shape.num_sequences),
        "rotary_lens": padded(np.maximum(prompts, lengths), shape.num_sequences),
    }
    history_rows = padded(layout.token_indices, shape.num_tokens, len(table.num_blocks))
    return InputBatch(shape, layout, arrays, history_rows)


def health_arrays(shape: StepShape, block: int, block_size: int) -> dict[str, Int32Array]:
    """Build the fields of `StepArrays` for token 0 at position 0 of a sequence in `block`."""
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
