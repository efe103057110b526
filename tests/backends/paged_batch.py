"""A small substitute for a runner: builds the decoder's batch from rows of tokens."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tgi_torch.attention.kv_cache import KVCache
from tgi_torch.attention.paged import AttentionMetadata, CrossMetadata, EncoderInput
from tgi_torch.model.decoder import Decoder

__all__ = ["PagedSequence", "cross_metadata", "metadata_of", "step"]


@dataclass
class PagedSequence:
    """One sequence and its blocks, which may be anywhere in the cache."""

    token_ids: list[int]
    block_table: list[int]
    num_computed_tokens: int = 0
    # float32 [vocab] for each computed position.
    logits: list[Tensor] = field(default_factory=list)
    encoder_token_ids: list[int] = field(default_factory=list)
    cross_table: list[int] = field(default_factory=list)  # blocks of the encoder's tokens
    num_prompt_tokens: int = 0  # 0 if unknown

    @property
    def state(self) -> int:
        """The index of its recurrent state: its last block, which no other sequence has."""
        return self.block_table[-1]


def metadata_of(rows: list[tuple[list[int], int, int]], block_size: int) -> AttentionMetadata:
    """Build the metadata for rows of (block table, first position, number of new tokens)."""
    positions = [torch.arange(first, first + count) for _, first, count in rows]
    slots = [
        torch.tensor(table)[position // block_size] * block_size + position % block_size
        for (table, _, _), position in zip(rows, positions, strict=True)
    ]
    query_lens = tuple(count for _, _, count in rows)
    context_lens = tuple(first + count for _, first, count in rows)
    width = max(len(table) for table, _, _ in rows)
    return AttentionMetadata(
        positions=torch.cat(positions),
        slot_mapping=torch.cat(slots),
        block_tables=torch.tensor(
            [table + [0] * (width - len(table)) for table, _, _ in rows], dtype=torch.int32
        ),
        cu_seqlens_q=torch.tensor([0, *query_lens]).cumsum(0).int(),
        seq_lens=torch.tensor(context_lens, dtype=torch.int32),
        query_lens=query_lens,
        context_lens=context_lens,
    )


def step(decoder: Decoder, cache: KVCache, work: list[tuple[PagedSequence, int]]) -> None:
    """Run the next tokens of each sequence in one batch and store their logits.

    `work` contains each sequence with its number of tokens.
    """
    rows = [(sequence.block_table, sequence.num_computed_tokens, count) for sequence, count in work]
    token_ids = [
        sequence.token_ids[sequence.num_computed_tokens :][:count] for sequence, count in work
    ]
    flat = torch.tensor([token for ids in token_ids for token in ids])
    metadata = replace(
        metadata_of(rows, cache.block_size),
        states=torch.tensor([sequence.state for sequence, _ in work]) if cache.states else None,
        cross=(
            cross_metadata([sequence for sequence, _ in work], cache.block_size)
            if cache.cross_layers
            else None
        ),
        prompt_lens=tuple(sequence.num_prompt_tokens for sequence, _ in work),
    )
    logits = iter(decoder.logits(decoder.forward(flat, metadata, cache)))
    for sequence, count in work:
        sequence.logits.extend(next(logits) for _ in range(count))
        sequence.num_computed_tokens += count


def cross_metadata(sequences: list[PagedSequence], block_size: int) -> CrossMetadata:
    """The encoder tokens that the rows attend to, and the inputs of encoders that start."""
    width = max(len(sequence.cross_table) for sequence in sequences)
    starting = [sequence for sequence in sequences if not sequence.num_computed_tokens]
    slots = []
    for sequence in starting:
        position = torch.arange(len(sequence.encoder_token_ids))
        slots.append(
            torch.tensor(sequence.cross_table)[position // block_size] * block_size
            + position % block_size
        )
    encoder = EncoderInput(
        token_ids=torch.tensor(
            [token for sequence in starting for token in sequence.encoder_token_ids]
        ),
        lengths=tuple(len(sequence.encoder_token_ids) for sequence in starting),
        slot_mapping=torch.cat(slots) if slots else torch.empty(0, dtype=torch.int64),
    )
    return CrossMetadata(
        block_tables=torch.tensor(
            [s.cross_table + [0] * (width - len(s.cross_table)) for s in sequences],
            dtype=torch.int32,
        ),
        encoder_lens=tuple(len(sequence.encoder_token_ids) for sequence in sequences),
        encoder=encoder if starting else None,
    )
