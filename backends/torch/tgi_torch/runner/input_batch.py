"""Converts the rows of one step to the input tensors of the decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tgi.backend import Rows
from tgi.worker.layout import StepLayout, fill_tokens, lay_out, slots_of
from tgi.worker.sequences import SequenceTable
from tgi_torch.attention.paged import AttentionMetadata, CrossMetadata, EncoderInput

__all__ = ["InputBatch", "build_input_batch"]


@final
@dataclass(frozen=True)
class InputBatch:
    """The tensors of one step with T tokens."""

    layout: StepLayout
    token_ids: Tensor  # int64 [T]
    metadata: AttentionMetadata


def build_input_batch(rows: Rows, table: SequenceTable, device: torch.device) -> InputBatch:
    """Append the rows' new blocks and tokens to `table` and build the tensors of the step. Raises
    `StepError` if the step exceeds the negotiated limits.
    """
    layout = lay_out(rows, table)
    token_ids = fill_tokens(rows.tokens, layout, table)
    cu_seqlens = np.zeros(rows.num_rows + 1, np.int32)
    cu_seqlens[1:] = layout.ends
    metadata = AttentionMetadata(
        positions=_tensor(layout.positions, device),
        slot_mapping=_tensor(layout.slot_mapping, device),
        block_tables=_tensor(table.block_tables[layout.indices, : layout.num_blocks], device),
        cu_seqlens_q=_tensor(cu_seqlens, device),
        seq_lens=_tensor(layout.lengths.astype(np.int32), device),
        query_lens=tuple(layout.counts.tolist()),
        context_lens=tuple(layout.lengths.tolist()),
        states=_tensor(table.states[layout.indices], device) if table.has_states else None,
        cross=_cross_metadata(layout, table, device) if table.has_encoder else None,
        prompt_lens=tuple(state.num_prompt_tokens for state in layout.states),
    )
    return InputBatch(layout, _tensor(token_ids, device), metadata)


def _tensor(array: npt.NDArray[np.integer], device: torch.device) -> Tensor:
    """Return the array as a tensor on the device. On the CPU the tensor uses the array's memory."""
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.to(device)


def _cross_metadata(
    layout: StepLayout, table: SequenceTable, device: torch.device
) -> CrossMetadata:
    """Return the metadata of the encoder tokens to which the rows attend. The encoder of a sequence
    runs in the step with the sequence's first token.
    """
    states = layout.states
    lengths = [len(state.encoder_tokens) for state in states]
    width = -(-max(lengths) // table.block_size)
    tables = table.cross_tables[layout.indices, :width]
    encoder = None
    starting = [
        state for state, start in zip(states, layout.starts.tolist(), strict=True) if start == 0
    ]
    if starting:
        counts = [len(state.encoder_tokens) for state in starting]
        rows = np.repeat(np.array([state.index for state in starting]), counts)
        positions = np.concatenate([np.arange(count) for count in counts])
        token_ids = np.concatenate([state.encoder_tokens for state in starting]).astype(np.int64)
        slots = slots_of(table.cross_tables, rows, positions, table.block_size)
        encoder = EncoderInput(_tensor(token_ids, device), tuple(counts), _tensor(slots, device))
    return CrossMetadata(_tensor(tables, device), tuple(lengths), encoder)
