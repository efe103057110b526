"""Attention over a paged cache, for rows of one query token and for rows of many.

A tile consists of `BLOCK_TOKENS` query tokens of one row, with all query heads that share a kv
head. One program computes one tile for one kv head and one part of the context. If the context is
divided into several parts, each program stores an incomplete result, and `merge_parts` combines the
results (split-KV, https://pytorch.org/blog/flash-decoding/). The softmax is computed online
(Milakov and Gimelshein, arXiv:1805.02867).
"""

from __future__ import annotations

import triton
import triton.language as tl

from tgi_triton.kernels.small_floats import as_operand

__all__ = ["attend", "merge_parts"]

_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _softcapped(scores: tl.tensor, softcap: tl.tensor) -> tl.tensor:
    """Return softcap * tanh(scores / softcap), without overflow."""
    power = tl.exp2(tl.abs(scores) * (-2.0 * _LOG2_E) / softcap)
    magnitude = softcap * (1.0 - power) / (1.0 + power)
    return tl.where(scores < 0.0, -magnitude, magnitude)


@triton.jit
def _load_rows(pointer, rows, columns, is_row, SIZE: tl.constexpr):
    """Load some columns of some rows of a matrix with rows of `SIZE` values."""
    return tl.load(
        pointer + rows[:, None] * SIZE + columns[None, :],
        mask=is_row[:, None] & (columns < SIZE)[None, :],
        other=0,
    )


@triton.jit
def _context_of_tile(
    first_position,
    last_position,
    window,
    part,
    BLOCK_N: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
):
    """Return the first position that this program reads, and the position after the last one."""
    begin, end = 0, last_position + 1
    if HAS_WINDOW:
        begin = tl.maximum(first_position - window + 1, 0) // BLOCK_N * BLOCK_N
    if NUM_PARTS > 1:
        part_len = tl.cdiv(tl.cdiv(end - begin, NUM_PARTS), BLOCK_N) * BLOCK_N
        begin += part * part_len
        end = tl.minimum(end, begin + part_len)
    return begin, end


@triton.jit
def _scores(
    scores,  # float32 [BLOCK_M, BLOCK_N], scale * query key
    softcap,
    slopes,
    distances,  # int32 [BLOCK_M, BLOCK_N], position of the key - position of the query
    window,
    HAS_SOFTCAP: tl.constexpr,
    HAS_SLOPES: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
):
    """Return softcap(scores) + slope * distance, float32 [BLOCK_M, BLOCK_N]. The scores of
    positions that a query must not see are -inf.
    """
    if HAS_SOFTCAP:
        scores = _softcapped(scores, softcap)
    if HAS_SLOPES:
        scores += slopes[:, None] * distances.to(tl.float32)
    is_visible = distances <= 0
    if HAS_WINDOW:
        is_visible &= distances > -window
    return tl.where(is_visible, scores, float("-inf"))


@triton.jit
def _first_sums(sinks, heads, is_used, part, BLOCK_M: tl.constexpr, HAS_SINKS: tl.constexpr):
    """Return the greatest score and the sum before any position was read, float32 [BLOCK_M]."""
    greatest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    if HAS_SINKS:
        # A sink is a score without a value. The first part contains it.
        sink = tl.load(sinks + heads, mask=is_used, other=float("-inf"))
        greatest = tl.where(part == 0, sink, greatest)
        total = tl.where((part == 0) & is_used, 1.0, total)
    return greatest, total


@triton.jit
def _slots(table, positions, is_read, kv_head, KV_HEADS: tl.constexpr, BLOCK_SIZE: tl.constexpr):
    """Return the index of each position's key in the cache, int64 [BLOCK_N]."""
    blocks = tl.load(table + positions // BLOCK_SIZE, mask=is_read, other=0).to(tl.int64)
    return (blocks * BLOCK_SIZE + positions % BLOCK_SIZE) * KV_HEADS + kv_head


@triton.jit
def _softmax_step(scores, greatest, total):
    """Include more scores in the softmax. Returns the weights of these scores, the factor for all
    earlier results, and the new values of `greatest` and `total`.
    """
    now = tl.maximum(greatest, tl.max(scores, 1))
    # Without a visible position, all scores are -inf, and -inf - -inf would be NaN.
    anchor = tl.where(now == float("-inf"), 0.0, now)
    factor = tl.exp2((greatest - anchor) * _LOG2_E)
    weights = tl.exp2((scores - anchor[:, None]) * _LOG2_E)
    return weights, factor, now, total * factor + tl.sum(weights, 1)


@triton.jit
def _store_result(
    out,
    sums,
    lines,
    is_used,
    weighted,
    greatest,
    total,
    VALUE_DIM: tl.constexpr,
    BLOCK_V: tl.constexpr,
    NUM_PARTS: tl.constexpr,
):
    """Store a complete result, or the result of one part with its maximum and sum."""
    columns = tl.arange(0, BLOCK_V)
    if NUM_PARTS == 1:
        weighted = weighted / tl.where(total == 0.0, 1.0, total)[:, None]
    else:
        tl.store(sums + lines * 2, greatest, mask=is_used)
        tl.store(sums + lines * 2 + 1, total, mask=is_used)
    tl.store(
        out + lines[:, None] * VALUE_DIM + columns[None, :],
        weighted.to(out.dtype.element_ty),
        mask=is_used[:, None] & (columns < VALUE_DIM)[None, :],
    )


@triton.jit
def attend(
    query: tl.tensor,  # [T, H, HEAD_DIM]
    keys: tl.tensor,  # [blocks, BLOCK_SIZE, KV_HEADS, HEAD_DIM], float or fp8 bits
    values: tl.tensor,  # [blocks, BLOCK_SIZE, KV_HEADS, VALUE_DIM]
    out: tl.tensor,  # [T, H, VALUE_DIM]; with several parts float32 [T, H, parts, VALUE_DIM]
    sums: tl.tensor,  # float32 [T, H, parts, 2]: maximum and sum, only with several parts
    block_tables: tl.tensor,  # int32 [rows, table_stride]
    context_lens: tl.tensor,  # int32 [rows]
    query_starts: tl.tensor,  # int32 [rows + 1]
    tile_rows: tl.tensor,  # int32 [tiles]
    tile_starts: tl.tensor,  # int32 [tiles], index of the first query token in its row
    slopes: tl.tensor,  # float32 [H]
    sinks: tl.tensor,  # float32 [H]
    table_stride: tl.tensor,
    scale: tl.tensor,
    softcap: tl.tensor,
    key_scale: tl.tensor,
    value_scale: tl.tensor,
    window: tl.tensor,  # visible positions, including the query's own
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_M: tl.constexpr,  # a power of two >= BLOCK_TOKENS * GROUP and >= 16
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_REST: tl.constexpr,
    BLOCK_V: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    CACHE_KIND: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_SLOPES: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    SHARED_VALUES: tl.constexpr,
) -> None:
    """Attend from one tile to one part of its row's context.

    The head is divided into the first `BLOCK_D` values and `BLOCK_REST` further values, because a
    tile must have a power of two as its size. If `SHARED_VALUES` is set (latent attention), a
    value is the first `VALUE_DIM` = `BLOCK_D` values of its key, and `values` is not read.

    A row that fills a batch of fixed size has no tokens and a context of 0. It stores nothing.
    """
    kv_head, part = tl.program_id(1), tl.program_id(2)
    row = tl.load(tile_rows + tl.program_id(0))
    first_token = tl.load(tile_starts + tl.program_id(0))
    query_start = tl.load(query_starts + row)
    num_queries = tl.load(query_starts + row + 1) - query_start
    start_position = tl.load(context_lens + row) - num_queries
    places = tl.arange(0, BLOCK_M)
    tokens, heads = first_token + places // GROUP, kv_head * GROUP + places % GROUP
    is_used = (places < BLOCK_TOKENS * GROUP) & (tokens < num_queries)
    positions = start_position + tokens
    lines = ((query_start + tokens) * (KV_HEADS * GROUP) + heads).to(tl.int64)
    columns = tl.arange(0, BLOCK_D)
    rest = BLOCK_D + tl.arange(0, BLOCK_REST)
    own = _load_rows(query, lines, columns, is_used, HEAD_DIM).to(DOT_DTYPE)
    own_rest, slope = own, tl.zeros([BLOCK_M], tl.float32)
    if HEAD_DIM > BLOCK_D:
        own_rest = _load_rows(query, lines, rest, is_used, HEAD_DIM).to(DOT_DTYPE)
    greatest, total = _first_sums(sinks, heads, is_used, part, BLOCK_M, HAS_SINKS)
    if HAS_SLOPES:
        slope = tl.load(slopes + heads, mask=is_used, other=0.0)
    weighted = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
    table = block_tables + row * table_stride
    first_position = start_position + first_token
    last_position = start_position + tl.minimum(first_token + BLOCK_TOKENS, num_queries) - 1
    begin, end = _context_of_tile(
        first_position, last_position, window, part, BLOCK_N, NUM_PARTS, HAS_WINDOW
    )
    for start in range(begin, end, BLOCK_N):
        others = start + tl.arange(0, BLOCK_N)
        is_read = others < end
        if HAS_WINDOW:
            # A block before the window of the first token may already belong to another sequence.
            is_read &= others > first_position - window
        slots = _slots(table, others, is_read, kv_head, KV_HEADS, BLOCK_SIZE)
        stored = _load_rows(keys, slots, columns, is_read, HEAD_DIM)
        key = as_operand(stored, CACHE_KIND, DOT_DTYPE)
        value, scores = key, tl.dot(own, tl.trans(key), input_precision="ieee")
        if HEAD_DIM > BLOCK_D:
            stored = _load_rows(keys, slots, rest, is_read, HEAD_DIM)
            key_rest = as_operand(stored, CACHE_KIND, DOT_DTYPE)
            scores += tl.dot(own_rest, tl.trans(key_rest), input_precision="ieee")
        distances = others[None, :] - positions[:, None]
        scores *= scale * key_scale
        scores = _scores(
            scores, softcap, slope, distances, window, HAS_SOFTCAP, HAS_SLOPES, HAS_WINDOW
        )
        # A part of the context may end before the position of the query.
        scores = tl.where(is_read[None, :], scores, float("-inf"))
        weights, factor, greatest, total = _softmax_step(scores, greatest, total)
        if not SHARED_VALUES:
            stored = _load_rows(values, slots, tl.arange(0, BLOCK_V), is_read, VALUE_DIM)
            value = as_operand(stored, CACHE_KIND, DOT_DTYPE)
        weighted = weighted * factor[:, None]
        weighted += tl.dot(weights.to(DOT_DTYPE), value, input_precision="ieee")
    at, weighted = lines * NUM_PARTS + part, weighted * value_scale
    _store_result(out, sums, at, is_used, weighted, greatest, total, VALUE_DIM, BLOCK_V, NUM_PARTS)


@triton.jit
def merge_parts(
    parts: tl.tensor,  # float32 [T, H, NUM_PARTS, VALUE_DIM]
    sums: tl.tensor,  # float32 [T, H, NUM_PARTS, 2]
    out: tl.tensor,  # [T, H, VALUE_DIM]
    tokens: tl.tensor,  # int32 [programs], the tokens whose parts are combined
    NUM_HEADS: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,  # a power of two >= NUM_PARTS
    BLOCK_V: tl.constexpr,
) -> None:
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
