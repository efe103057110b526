"""Turns the rows of one step into what the decoder reads: token ids, positions, slots and block
tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tgi.backend import TOKEN_ON_DEVICE, Int32Array, Rows
from tgi.worker.step_checks import check_blocks, check_positions, check_token_ids
from tgi_torch.attention.paged import AttentionMetadata, CrossMetadata, EncoderInput
from tgi_torch.runner.sequences import SequenceState, SequenceTable

__all__ = ["InputBatch", "build_input_batch"]

Int64Array = npt.NDArray[np.int64]


@final
@dataclass(frozen=True)
class InputBatch:
    """One step, ready to run. n rows, T tokens."""

    states: list[SequenceState]  # [n]
    indices: Int64Array  # [n] the rows' places in the sequence table
    starts: Int64Array  # [n]
    lengths: Int64Array  # [n] context length after the step
    ends: Int64Array  # [n] where each row's tokens end among the T
    token_ids: Tensor  # int64 [T]
    metadata: AttentionMetadata


def build_input_batch(rows: Rows, table: SequenceTable, device: torch.device) -> InputBatch:
    """Append the rows' new blocks and tokens to `table` and lay the step out. Raises `StepError` if
    it breaks the agreement.
    """
    num_rows, num_tokens = rows.num_rows, rows.num_tokens
    states, indices = table.find(rows.sequence.tolist())
    starts, counts = rows.start.astype(np.int64), rows.count.astype(np.int64)
    lengths, ends = starts + counts, counts.cumsum()
    check_positions(rows, table.num_computed_tokens, indices)
    table.append_blocks(rows, indices)
    if table.has_blocks:
        check_blocks(rows, table.num_blocks, indices, lengths, table.block_size)
    if num_tokens == num_rows:  # every row has one token
        token_indices, positions = indices, starts
    else:
        token_indices = np.repeat(indices, counts)
        positions = np.arange(num_tokens) - np.repeat(ends - lengths, counts)
    token_ids = rows.tokens.astype(np.int64)
    unknown = token_ids == TOKEN_ON_DEVICE
    if unknown.any():
        token_ids[unknown] = table.tokens[token_indices[unknown], positions[unknown]]
    check_token_ids(token_ids, table.vocab_size)
    table.tokens[token_indices, positions] = token_ids
    block_size = table.block_size
    slots = _slots(table.block_tables, token_indices, positions, block_size)
    width = (int(lengths.max()) - 1) // block_size + 1
    cu_seqlens = np.zeros(num_rows + 1, np.int32)
    cu_seqlens[1:] = ends
    metadata = AttentionMetadata(
        positions=_tensor(positions, device),
        slot_mapping=_tensor(slots, device),
        block_tables=_tensor(table.block_tables[indices, :width], device),
        cu_seqlens_q=_tensor(cu_seqlens, device),
        seq_lens=_tensor(lengths.astype(np.int32), device),
        query_lens=tuple(counts.tolist()),
        context_lens=tuple(lengths.tolist()),
        states=_tensor(table.states[indices], device) if table.has_states else None,
        cross=_cross_metadata(states, starts, table, device) if table.has_encoder else None,
        prompt_lens=tuple(state.num_prompt_tokens for state in states),
    )
    return InputBatch(states, indices, starts, lengths, ends, _tensor(token_ids, device), metadata)


def _tensor(array: npt.NDArray[np.integer], device: torch.device) -> Tensor:
    """The array on the device: itself where that is this machine's memory."""
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.to(device)


def _slots(
    tables: Int32Array, rows: Int64Array, positions: Int64Array, block_size: int
) -> Int64Array:
    """Where the cache keeps each token, given its row of `tables` and its position."""
    return (
        tables[rows, positions // block_size].astype(np.int64) * block_size + positions % block_size
    )


def _cross_metadata(
    states: list[SequenceState], starts: Int64Array, table: SequenceTable, device: torch.device
) -> CrossMetadata:
    """What the rows see of their encoders. The encoder of a sequence runs in the step of its first
    token.
    """
    lengths = [len(state.encoder_tokens) for state in states]
    width = -(-max(lengths) // table.block_size)
    tables = table.cross_tables[[state.index for state in states], :width]
    encoder = None
    starting = [state for state, start in zip(states, starts.tolist(), strict=True) if start == 0]
    if starting:
        counts = [len(state.encoder_tokens) for state in starting]
        rows = np.repeat(np.array([state.index for state in starting]), counts)
        positions = np.concatenate([np.arange(count) for count in counts])
        token_ids = np.concatenate([state.encoder_tokens for state in starting]).astype(np.int64)
        check_token_ids(token_ids, table.vocab_size)
        slots = _slots(table.cross_tables, rows, positions, table.block_size)
        encoder = EncoderInput(_tensor(token_ids, device), tuple(counts), _tensor(slots, device))
    return CrossMetadata(_tensor(tables, device), tuple(lengths), encoder)
