"""Attention over a paged cache in plain PyTorch, the reference for faster implementations.

A step contains rows of any length. Rows of one query token (decode rows) are computed together.
Other rows (prefill rows) are computed one by one. A gather reads only positions of the row's own
sequence, because shorter rows are padded with their own oldest visible token, and the padding is
masked. The contents of unused blocks, even NaN, are therefore never used.

Shapes: T tokens of all rows, R rows, H query heads, K kv heads, G = H / K, D head size, L context.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from tgi_torch.attention.key_range import KeyRange
from tgi_torch.attention.kv_cache import LayerCache
from tgi_torch.model.relative_bias import RelativePositionBias

__all__ = [
    "AttentionMetadata",
    "AttentionPlan",
    "AttentionSettings",
    "CrossMetadata",
    "EncoderInput",
    "paged_attention",
    "plan_attention",
    "plan_cross_attention",
]


@final
@dataclass(frozen=True)
class EncoderInput:
    """The sequences whose encoder runs at the beginning of a step, E tokens in total."""

    token_ids: Tensor  # int64 [E]
    lengths: tuple[int, ...]
    slot_mapping: Tensor  # int64 [E]: the slot of each token's cross-attention key and value


@final
@dataclass(frozen=True)
class CrossMetadata:
    """The encoder tokens to which the rows of a step attend. Encoder tokens have their own block
    tables.
    """

    block_tables: Tensor  # int32 [R, max_blocks], padded with 0
    encoder_lens: tuple[int, ...]  # [R]
    encoder: EncoderInput | None = None


@final
@dataclass(frozen=True)
class AttentionMetadata:
    """The positions and cache slots of a step's tokens, concatenated row after row in batch order.

    Row i has `query_lens[i]` new tokens, the last of them at position `context_lens[i] - 1`.
    """

    positions: Tensor  # int64 [T]
    slot_mapping: Tensor  # int64 [T], block * block_size + offset of each token's key and value
    block_tables: Tensor  # int32 [R, max_blocks], padded with 0
    cu_seqlens_q: Tensor  # int32 [R + 1], cumulative sums of query_lens
    seq_lens: Tensor  # int32 [R], the values of `context_lens`
    query_lens: tuple[int, ...]  # stored on the host, so that reading them waits for no kernel
    context_lens: tuple[int, ...]
    states: Tensor | None = None  # int64 [R], the rows' states, in models with recurrent layers
    cross: CrossMetadata | None = None  # in models with an encoder
    prompt_lens: tuple[int, ...] = ()  # empty if no prompt is longer than its context

    @property
    def rotary_lens(self) -> tuple[int, ...]:
        """The length for which each row's rotation is chosen.

        The length includes the whole prompt, so that each prefill chunk gets the rotation of the
        whole prompt.
        """
        return (
            tuple(map(max, self.context_lens, self.prompt_lens))
            if self.prompt_lens
            else self.context_lens
        )


@final
@dataclass(frozen=True)
class AttentionSettings:
    """The parameters of one attention layer."""

    scale: float
    softcap: float | None = None
    alibi_slopes: Tensor | None = None  # float32 [H]
    sinks: Tensor | None = None  # [H]
    relative_bias: RelativePositionBias | None = None

    @property
    def plain(self) -> bool:
        """Whether softmax(scale q k) v is sufficient, so that a fused kernel can be used."""
        return self.softcap is None and self.sinks is None and not self.has_bias

    @property
    def has_bias(self) -> bool:
        """Whether scores depend on the distance between query and key."""
        return self.alibi_slopes is not None or self.relative_bias is not None

    def bias(self, distance: Tensor) -> Tensor | None:
        """Return the bias of the scores for distances [..., Q, L] (query position - key position).

        The result is float32 [..., H, Q, L], or None if there is no bias.
        """
        if self.alibi_slopes is not None:
            return self.alibi_slopes.view(-1, 1, 1) * -distance.unsqueeze(-3)
        return None if self.relative_bias is None else self.relative_bias(distance)


@final
@dataclass(frozen=True)
class DecodeGroup:
    """All rows of one query token."""

    tokens: Tensor  # int64 [R], their token indices in the step
    slots: Tensor  # int64 [R * L]
    visible: Tensor  # bool [R, 1, 1, L]
    distance: Tensor  # int64 [R, 1, L], query position - key position


@final
@dataclass(frozen=True)
class PrefillRow:
    """A row of several query tokens."""

    start: int  # the tokens of the row are start to stop - 1 in the step
    stop: int
    slots: Tensor  # int64 [L]
    visible: Tensor | None  # bool [query_len, L]; None if the mask is causal and square
    distance: Tensor  # int64 [query_len, L], query position - key position


@final
@dataclass(frozen=True)
class AttentionPlan:
    """Data derived from the metadata once per step, for all layers with the same key range."""

    decode: DecodeGroup | None
    prefills: tuple[PrefillRow, ...]


def plan_attention(
    metadata: AttentionMetadata, block_size: int, key_range: KeyRange
) -> AttentionPlan:
    """Find the slots that each row reads.

    Positions outside `key_range` are not read, so the blocks of these positions may already be
    free.
    """
    decode_rows: list[int] = []
    decode_tokens: list[int] = []
    prefills: list[PrefillRow] = []
    start = 0
    for row, query_len in enumerate(metadata.query_lens):
        if query_len == 1:
            decode_rows.append(row)
            decode_tokens.append(start)
        elif query_len:
            prefills.append(_plan_prefill(metadata, row, start, block_size, key_range))
        start += query_len
    decode = (
        _plan_decode(metadata, decode_rows, decode_tokens, block_size, key_range)
        if decode_rows
        else None
    )
    return AttentionPlan(decode=decode, prefills=tuple(prefills))


def _plan_decode(
    metadata: AttentionMetadata,
    rows: list[int],
    tokens: list[int],
    block_size: int,
    key_range: KeyRange,
) -> DecodeGroup:
    ends = [metadata.context_lens[row] for row in rows]
    spans = list(zip(key_range.firsts([end - 1 for end in ends]), ends, strict=True))
    return _gather_rows(metadata.block_tables, rows, tokens, spans, block_size)


def _gather_rows(
    tables: Tensor,
    rows: list[int],
    tokens: list[int],
    spans: list[tuple[int, int]],
    block_size: int,
) -> DecodeGroup:
    """Build a group of `rows` of `tables`, each of which attends to its span (first, end)."""
    device = tables.device
    firsts, ends = [first for first, _ in spans], [end for _, end in spans]
    width = max(end - first for end, first in zip(ends, firsts, strict=True))
    end = torch.tensor(ends, device=device).unsqueeze(1)
    first = torch.tensor(firsts, device=device).unsqueeze(1)
    position = first + torch.arange(width, device=device)
    visible = position < end
    position = torch.where(visible, position, first)
    if len(rows) != tables.shape[0]:
        tables = tables.index_select(0, torch.tensor(rows, device=device))
    blocks = tables.long().gather(1, position // block_size)
    return DecodeGroup(
        tokens=torch.tensor(tokens, device=device),
        slots=(blocks * block_size + position % block_size).flatten(),
        visible=visible[:, None, None, :],
        distance=(end - 1 - position).unsqueeze(1),
    )


def _plan_prefill(
    metadata: AttentionMetadata, row: int, start: int, block_size: int, key_range: KeyRange
) -> PrefillRow:
    device = metadata.block_tables.device
    query_len, context_len = metadata.query_lens[row], metadata.context_lens[row]
    query_start = context_len - query_len
    key_position = torch.arange(key_range.first(query_start), context_len, device=device)
    slots = (
        metadata.block_tables[row].long()[key_position // block_size] * block_size
        + key_position % block_size
    )
    query_position = torch.arange(query_start, context_len, device=device)
    distance = query_position[:, None] - key_position
    # Without earlier tokens, and if every query attends to the first token, the mask is causal and
    # square.
    is_square = query_start == 0 and key_range.first(context_len - 1) == 0
    visible = None if is_square else key_range.visible(query_position, key_position)
    return PrefillRow(
        start=start, stop=start + query_len, slots=slots, visible=visible, distance=distance
    )


def plan_cross_attention(metadata: AttentionMetadata, block_size: int) -> AttentionPlan:
    """Find the slots of encoder tokens that each row reads. Every query of a row attends to all
    encoder tokens of its sequence.
    """
    cross = metadata.cross
    assert cross is not None
    single: list[int] = []
    tokens: list[int] = []
    prefills: list[PrefillRow] = []
    start = 0
    for row, query_len in enumerate(metadata.query_lens):
        if query_len == 1:
            single.append(row)
            tokens.append(start)
        elif query_len:
            position = torch.arange(cross.encoder_lens[row], device=cross.block_tables.device)
            visible = position.new_ones(query_len, len(position), dtype=torch.bool)
            slots = (
                cross.block_tables[row].long()[position // block_size] * block_size
                + position % block_size
            )
            prefills.append(
                PrefillRow(start, start + query_len, slots, visible, position.expand(query_len, -1))
            )
        start += query_len
    spans = [(0, cross.encoder_lens[row]) for row in single]
    decode = _gather_rows(cross.block_tables, single, tokens, spans, block_size) if single else None
    return AttentionPlan(decode=decode, prefills=tuple(prefills))


def paged_attention(
    query: Tensor, cache: LayerCache, plan: AttentionPlan, settings: AttentionSettings
) -> Tensor:
    """Compute the attention of `query` [T, H, D] over the tokens of each row in `cache`.

    The keys and values of this step must be in the cache. Returns [T, H * Dv] in the query's dtype.
    """
    num_tokens, num_heads, _ = query.shape
    out = query.new_empty(num_tokens, num_heads, cache.value.shape[-1])
    if plan.decode is not None:
        if plan.decode.tokens.shape[0] == num_tokens:
            out = _attend_decode(query, cache, plan.decode, settings)
        else:
            tokens = plan.decode.tokens
            out.index_copy_(
                0,
                tokens,
                _attend_decode(query.index_select(0, tokens), cache, plan.decode, settings),
            )
    for row in plan.prefills:
        out[row.start : row.stop] = _attend_prefill(
            query[row.start : row.stop], cache, row, settings
        )
    return out.flatten(1)


def _attend_decode(
    query: Tensor, cache: LayerCache, group: DecodeGroup, settings: AttentionSettings
) -> Tensor:
    """Compute the decode rows [R, H, D] to [R, H, Dv].

    The query heads of one kv head share keys, values and mask, so they form the query dimension.
    """
    rows, num_heads, head_dim = query.shape
    num_kv_heads = cache.key.shape[2]
    grouped = query.view(rows, num_kv_heads, num_heads // num_kv_heads, head_dim)
    # [R, K, L, D] each.
    key, value = (
        side.view(rows, -1, *side.shape[1:]).transpose(1, 2) for side in cache.gather(group.slots)
    )
    if settings.plain:
        out = functional.scaled_dot_product_attention(
            grouped, key, value, attn_mask=group.visible, scale=settings.scale
        )
    else:
        bias = settings.bias(group.distance)  # [R, H, 1, L]
        bias = None if bias is None else bias.reshape(rows, num_kv_heads, -1, bias.shape[-1])
        sinks = None if settings.sinks is None else settings.sinks.view(num_kv_heads, -1)
        out = _attend_explicitly(
            grouped, key, value, visible=group.visible, bias=bias, sinks=sinks, settings=settings
        )
    return out.reshape(rows, num_heads, -1)


def _attend_prefill(
    query: Tensor, cache: LayerCache, row: PrefillRow, settings: AttentionSettings
) -> Tensor:
    """Compute one prefill row [query_len, H, D] to [query_len, H, Dv]."""
    query_len, num_heads, head_dim = query.shape
    num_kv_heads = cache.key.shape[2]
    group = num_heads // num_kv_heads
    # [K, G, query_len, D]
    heads = query.view(query_len, num_kv_heads, group, head_dim).permute(1, 2, 0, 3)
    key, value = (
        side.transpose(0, 1).unsqueeze(1).expand(-1, group, -1, -1)
        for side in cache.gather(row.slots)
    )
    if settings.plain:
        out = functional.scaled_dot_product_attention(
            heads,
            key,
            value,
            attn_mask=row.visible,
            is_causal=row.visible is None,
            scale=settings.scale,
        )
    else:
        bias = settings.bias(row.distance)  # [H, query_len, L]
        bias = None if bias is None else bias.view(num_kv_heads, group, *bias.shape[1:])
        sinks = None if settings.sinks is None else settings.sinks.view(num_kv_heads, group, 1)
        visible = row.distance >= 0 if row.visible is None else row.visible
        out = _attend_explicitly(
            heads, key, value, visible=visible, bias=bias, sinks=sinks, settings=settings
        )
    return out.permute(2, 0, 1, 3).reshape(query_len, num_heads, -1)


def _attend_explicitly(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    visible: Tensor,
    bias: Tensor | None,
    sinks: Tensor | None,
    settings: AttentionSettings,
) -> Tensor:
    """Compute softmax(softcap(scale q k) + bias) v, with scores in float32.

    Sinks are included in the softmax, and their weights are then dropped. `query` is [..., Q, D],
    `key` and `value` are [..., L, D]. `visible` and `bias` broadcast to [..., Q, L], `sinks` to
    [..., Q].
    """
    scores = (query @ key.transpose(-1, -2)).float() * settings.scale
    if settings.softcap is not None:
        scores = torch.tanh(scores / settings.softcap) * settings.softcap
    if bias is not None:
        scores = scores + bias
    scores = scores.masked_fill(~visible, float("-inf"))
    if sinks is not None:
        column = sinks.float().unsqueeze(-1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, column], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., : key.shape[-2]]
    return weights.to(value.dtype) @ value
