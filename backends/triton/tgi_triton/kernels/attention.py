"""Attention over a paged cache, for rows of one query token and for rows of many.

A tile consists of `block_tokens` query tokens of one row, with all query heads that share a kv
head. One program computes one tile for one kv head and one part of the context. If the context is
divided into several parts, each program stores an incomplete result, and `merge_parts` combines the
results (split-KV, https://pytorch.org/blog/flash-decoding/). The softmax is computed online
(Milakov and Gimelshein, arXiv:1805.02867).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, final

import triton
import triton.language as tl

from tgi_triton.kernels.small_floats import as_operand

__all__ = [
    "AttentionSizes",
    "CacheArguments",
    "ScoreArguments",
    "TileArguments",
    "attend",
    "merge_parts",
]

_LOG2_E = tl.constexpr(1.4426950408889634)


class CacheArguments(NamedTuple):
    """The cache of a layer, and the blocks of each row. A field must not be named `values`, because
    the tuples of the compiler have an attribute with this name.
    """

    key_blocks: Any  # [blocks, block_size, kv_heads, head_dim], float or fp8 bits
    value_blocks: Any  # [blocks, block_size, kv_heads, value_dim]
    key_scale: Any  # float
    value_scale: Any  # float
    block_tables: Any  # int32 [rows, table_stride]
    table_stride: Any


class TileArguments(NamedTuple):
    """The rows of the step and its tiles."""

    context_lens: Any  # int32 [rows]
    query_starts: Any  # int32 [rows + 1]
    rows: Any  # int32 [tiles]
    starts: Any  # int32 [tiles], index of the first query token in its row


class ScoreArguments(NamedTuple):
    """The parameters of the scores of a layer."""

    scale: Any
    softcap: Any
    window: Any  # visible positions, including the query's own
    slopes: Any  # float32 [heads]
    sinks: Any  # float32 [heads]


@final
@dataclass(frozen=True)
class AttentionSizes:
    """The values that are known when the kernel is compiled.

    The head is divided into the first `block_d` values and `block_rest` further values, because a
    tile must have a power of two as its size. If `shared_values` is set (latent attention), a value
    is the first `value_dim` = `block_d` values of its key.
    """

    kv_heads: int
    group: int  # query heads per kv head
    head_dim: int
    value_dim: int
    block_size: int
    block_tokens: int
    block_m: int  # a power of two >= block_tokens * group and >= 16
    block_n: int
    block_d: int
    block_rest: int
    block_v: int
    num_parts: int
    cache_kind: int
    dot_dtype: tl.dtype
    has_window: bool
    has_softcap: bool
    has_slopes: bool
    has_sinks: bool
    shared_values: bool


@triton.jit
def _load_rows(pointer, rows, columns, is_row, SIZE: tl.constexpr):
    """Load some columns of some rows of a matrix with rows of `SIZE` values."""
    return tl.load(
        pointer + rows[:, None] * SIZE + columns[None, :],
        mask=is_row[:, None] & (columns < SIZE)[None, :],
        other=0,
    )


@triton.jit
def _context_of_tile(first_position, last_position, window, part, SIZES: tl.constexpr):
    """Return the first position that this program reads, and the position after the last one."""
    begin, end = 0, last_position + 1
    if SIZES.has_window:
        begin = tl.maximum(first_position - window + 1, 0) // SIZES.block_n * SIZES.block_n
    if SIZES.num_parts > 1:
        num_blocks = tl.cdiv(tl.cdiv(end - begin, SIZES.num_parts), SIZES.block_n)
        begin += part * num_blocks * SIZES.block_n
        end = tl.minimum(end, begin + num_blocks * SIZES.block_n)
    return begin, end


@triton.jit
def _softcapped(scores, softcap):
    """Return softcap * tanh(scores / softcap), without overflow."""
    power = tl.exp2(tl.abs(scores) * (-2.0 * _LOG2_E) / softcap)
    magnitude = softcap * (1.0 - power) / (1.0 + power)
    return tl.where(scores < 0.0, -magnitude, magnitude)


@triton.jit
def _biased_and_masked(products, slopes, distances, score, SIZES: tl.constexpr):
    """Return softcap(products) + slope * distance, float32 [block_m, block_n]. The scores of
    positions that a query must not see are -inf. `distances` are the position of the key minus the
    position of the query.
    """
    scores = products
    if SIZES.has_softcap:
        scores = _softcapped(scores, score.softcap)
    if SIZES.has_slopes:
        scores += slopes[:, None] * distances.to(tl.float32)
    is_visible = distances <= 0
    if SIZES.has_window:
        is_visible &= distances > -score.window
    return tl.where(is_visible, scores, float("-inf"))


@triton.jit
def _first_sums(sinks, heads, is_used, part, SIZES: tl.constexpr):
    """Return the greatest score and the sum before any position was read, float32 [block_m]."""
    block_m: tl.constexpr = SIZES.block_m
    greatest = tl.full([block_m], float("-inf"), tl.float32)
    total = tl.zeros([block_m], tl.float32)
    if SIZES.has_sinks:
        # A sink is a score without a value. The first part contains it.
        sink = tl.load(sinks + heads, mask=is_used, other=float("-inf"))
        greatest = tl.where(part == 0, sink, greatest)
        total = tl.where((part == 0) & is_used, 1.0, total)
    return greatest, total


@triton.jit
def _slots(table, positions, is_read, kv_head, SIZES: tl.constexpr):
    """Return the index of each position's key in the cache, int64 [block_n]."""
    size = SIZES.block_size
    blocks = tl.load(table + positions // size, mask=is_read, other=0).to(tl.int64)
    return (blocks * size + positions % size) * SIZES.kv_heads + kv_head


@triton.jit
def _softmax_step(scores, greatest, total):
    """Include more scores in the softmax. Returns the weights of these scores, the factor for all
    results before, and the new values of `greatest` and `total`.
    """
    now = tl.maximum(greatest, tl.max(scores, 1))
    # Without a visible position, all scores are -inf, and -inf - -inf would be NaN.
    anchor = tl.where(now == float("-inf"), 0.0, now)
    factor = tl.exp2((greatest - anchor) * _LOG2_E)
    weights = tl.exp2((scores - anchor[:, None]) * _LOG2_E)
    return weights, factor, now, total * factor + tl.sum(weights, 1)


@triton.jit
def _store_result(out, sums, lines, is_used, weighted, greatest, total, SIZES: tl.constexpr):
    """Store a complete result, or the result of one part with its maximum and sum."""
    columns = tl.arange(0, SIZES.block_v)
    if SIZES.num_parts == 1:
        weighted = weighted / tl.where(total == 0.0, 1.0, total)[:, None]
    else:
        tl.store(sums + lines * 2, greatest, mask=is_used)
        tl.store(sums + lines * 2 + 1, total, mask=is_used)
    tl.store(
        out + lines[:, None] * SIZES.value_dim + columns[None, :],
        weighted.to(out.dtype.element_ty),
        mask=is_used[:, None] & (columns < SIZES.value_dim)[None, :],
    )


@triton.jit
def _scores_of_block(
    own, own_rest, slots, is_read, distances, slopes, cache, score, SIZES: tl.constexpr
):
    """Return the scores [block_m, block_n] of one block of keys, and the first part of the keys."""
    columns = tl.arange(0, SIZES.block_d)
    stored = _load_rows(cache.key_blocks, slots, columns, is_read, SIZES.head_dim)
    key = as_operand(stored, SIZES.cache_kind, SIZES.dot_dtype)
    products = tl.dot(own, tl.trans(key), input_precision="ieee")
    if SIZES.head_dim > SIZES.block_d:
        rest = SIZES.block_d + tl.arange(0, SIZES.block_rest)
        stored = _load_rows(cache.key_blocks, slots, rest, is_read, SIZES.head_dim)
        key_rest = as_operand(stored, SIZES.cache_kind, SIZES.dot_dtype)
        products += tl.dot(own_rest, tl.trans(key_rest), input_precision="ieee")
    products *= score.scale * cache.key_scale
    scores = _biased_and_masked(products, slopes, distances, score, SIZES)
    # A part of the context may end before the position of the query.
    return tl.where(is_read[None, :], scores, float("-inf")), key


@triton.jit
def attend(query, cache, tiles, score, out, sums, SIZES: tl.constexpr):
    """Attend from one tile to one part of its row's context.

    `query` is [T, heads, head_dim]. `out` is [T, heads, value_dim], or with several parts float32
    [T, heads, parts, value_dim]. `sums` is float32 [T, heads, parts, 2], the maximum and the sum of
    each part. A row that fills a batch of fixed size has no tokens and a context of 0. It stores
    nothing.
    """
    block_m: tl.constexpr = SIZES.block_m
    block_v: tl.constexpr = SIZES.block_v
    kv_head, part = tl.program_id(1), tl.program_id(2)
    row = tl.load(tiles.rows + tl.program_id(0))
    first_token = tl.load(tiles.starts + tl.program_id(0))
    query_start = tl.load(tiles.query_starts + row)
    num_queries = tl.load(tiles.query_starts + row + 1) - query_start
    start_position = tl.load(tiles.context_lens + row) - num_queries
    places = tl.arange(0, SIZES.block_m)
    tokens, heads = (
        first_token + places // SIZES.group,
        kv_head * SIZES.group + places % SIZES.group,
    )
    is_used = (places < SIZES.block_tokens * SIZES.group) & (tokens < num_queries)
    lines = ((query_start + tokens) * (SIZES.kv_heads * SIZES.group) + heads).to(tl.int64)
    columns, rest = tl.arange(0, SIZES.block_d), SIZES.block_d + tl.arange(0, SIZES.block_rest)
    own = _load_rows(query, lines, columns, is_used, SIZES.head_dim).to(SIZES.dot_dtype)
    own_rest, slopes = own, tl.zeros([block_m], tl.float32)
    if SIZES.head_dim > SIZES.block_d:
        own_rest = _load_rows(query, lines, rest, is_used, SIZES.head_dim).to(SIZES.dot_dtype)
    if SIZES.has_slopes:
        slopes = tl.load(score.slopes + heads, mask=is_used, other=0.0)
    greatest, total = _first_sums(score.sinks, heads, is_used, part, SIZES)
    weighted = tl.zeros([block_m, block_v], tl.float32)
    table = cache.block_tables + row * cache.table_stride
    first_position = start_position + first_token
    end_token = tl.minimum(first_token + SIZES.block_tokens, num_queries)
    last_position = start_position + end_token - 1
    begin, end = _context_of_tile(first_position, last_position, score.window, part, SIZES)
    for start in range(begin, end, SIZES.block_n):
        others = start + tl.arange(0, SIZES.block_n)
        is_read = others < end
        if SIZES.has_window:
            # A block before the window of the first token may already belong to another sequence.
            is_read &= others > first_position - score.window
        slots = _slots(table, others, is_read, kv_head, SIZES)
        distances = others[None, :] - (start_position + tokens)[:, None]
        scores, key = _scores_of_block(
            own, own_rest, slots, is_read, distances, slopes, cache, score, SIZES
        )
        weights, factor, greatest, total = _softmax_step(scores, greatest, total)
        value = key
        if not SIZES.shared_values:
            value_columns = tl.arange(0, SIZES.block_v)
            stored = _load_rows(cache.value_blocks, slots, value_columns, is_read, SIZES.value_dim)
            value = as_operand(stored, SIZES.cache_kind, SIZES.dot_dtype)
        weighted = weighted * factor[:, None]
        weighted += tl.dot(weights.to(SIZES.dot_dtype), value, input_precision="ieee")
    at, weighted = lines * SIZES.num_parts + part, weighted * cache.value_scale
    _store_result(out, sums, at, is_used, weighted, greatest, total, SIZES)


@triton.jit
def merge_parts(
    parts,  # float32 [T, heads, num_parts, value_dim]
    sums,  # float32 [T, heads, num_parts, 2]
    out,  # [T, heads, value_dim]
    tokens,  # int32 [programs], the tokens whose parts are combined
    NUM_HEADS: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,  # a power of two >= NUM_PARTS
    BLOCK_V: tl.constexpr,
):
    """Combine the parts of one token and head."""
    line = tl.load(tokens + tl.program_id(0)).to(tl.int64) * NUM_HEADS + tl.program_id(1)
    index = tl.arange(0, BLOCK_PARTS)
    columns = tl.arange(0, BLOCK_V)
    is_part = index < NUM_PARTS
    at = sums + (line * NUM_PARTS + index) * 2
    greatest = tl.load(at, mask=is_part, other=float("-inf"))
    total = tl.load(at + 1, mask=is_part, other=0.0)
    anchor = tl.max(greatest, 0)
    anchor = tl.where(anchor == float("-inf"), 0.0, anchor)
    factors = tl.exp2((greatest - anchor) * _LOG2_E)
    weighted = tl.load(
        parts + (line * NUM_PARTS + index)[:, None] * VALUE_DIM + columns[None, :],
        mask=is_part[:, None] & (columns < VALUE_DIM)[None, :],
        other=0.0,
    )
    sum_of_weights = tl.sum(total * factors, 0)
    result = tl.sum(weighted * factors[:, None], 0)
    result = result / tl.where(sum_of_weights == 0.0, 1.0, sum_of_weights)
    tl.store(
        out + line * VALUE_DIM + columns, result.to(out.dtype.element_ty), mask=columns < VALUE_DIM
    )
