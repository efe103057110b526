"""Ragged paged attention as one Pallas kernel for TPUs.

One launch computes prompts, prefill chunks and decode rows. The grid iterates over tiles of
queries. A tile contains queries of one or more sequences. For each of these sequences the kernel
iterates over groups of cache blocks. The kernel copies the next group to fast memory while it
scores the current group, and keeps a running softmax (arXiv 2205.14135). Queries of the tile that
belong to other sequences are masked, so that a tile of decode rows can contain many sequences.

Shapes: T tokens, H query heads in K groups of G, D head size, S sequences, P blocks per sequence, B
tokens of a block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from tgi_tpu.attention.paged import AttentionRule, Vectors
from tgi_tpu.model.layers import softcap
from tgi_tpu.step_arrays import StepArrays

__all__ = ["ragged_attention"]

Ref = Any
"""A reference to memory inside a kernel. Pallas has no public names for its own types."""

_HIDDEN = -1e30
_TINY = 1e-30
_ROWS = 128
"""Target number of rows of a score matrix, the height of a matrix unit."""
_KEYS = 128
"""Minimum number of keys of a group, the width of a vector register."""


@final
@dataclass(frozen=True)
class _Tiling:
    """The sizes for which the kernel is compiled."""

    tokens: int  # queries of a tile
    blocks: int  # blocks of a group
    block_size: int
    group_size: int  # query heads that share a key head
    num_kv_heads: int
    head_dim: int
    has_slopes: bool
    has_sinks: bool

    @property
    def keys(self) -> int:
        """Number of keys in a group of blocks."""
        return self.blocks * self.block_size

    @property
    def rows(self) -> int:
        """Number of rows of a tile, for one key head."""
        return self.tokens * self.group_size


def ragged_attention(
    query: jax.Array,
    pages: jax.Array,
    step: StepArrays,
    rule: AttentionRule,
    vectors: Vectors,
    *,
    interpret: Any = False,  # noqa: ANN401 - a bool or `pltpu.InterpretParams`
) -> jax.Array:
    """Compute the attention of queries [T, H, D] over pages [blocks, B, 2 K, D]. Returns [T, H, D].

    `tgi_tpu.attention.paged.attend` is the reference for this kernel.
    """
    num_tokens, num_heads, head_dim = query.shape
    tiling = _tiling_of(query, pages, step, vectors)
    tile, num_kv_heads, group_size = tiling.tokens, tiling.num_kv_heads, tiling.group_size
    num_tiles = math.ceil(num_tokens / tile)
    padded = jnp.pad(query, ((0, num_tiles * tile - num_tokens), (0, 0), (0, 0)))
    by_head = jnp.moveaxis(padded.reshape(-1, num_kv_heads, group_size, head_dim), 1, 0).reshape(
        num_kv_heads, -1, head_dim
    )
    starts = jnp.arange(num_tiles, dtype=jnp.int32) * tile
    first_sequence = jnp.searchsorted(step.cu_query_lens[1:], starts, side="right").astype(
        jnp.int32
    )
    scalars = (
        step.cu_query_lens,
        step.context_lens,
        step.block_tables,
        first_sequence,
        step.num_sequences,
    )
    # The token of each row within its tile, computed once for all tiles, because integer division
    # of vectors is slow in a kernel.
    row_tokens = jnp.arange(tiling.rows, dtype=jnp.int32)[:, None] // group_size
    by_row = [
        jnp.tile(vectors[name].reshape(num_kv_heads, 1, group_size), (1, tile, 1)).reshape(
            num_kv_heads, -1, 1
        )
        for name in _present(tiling)
    ]
    out = pl.pallas_call(
        partial(_kernel, tiling, rule),
        grid_spec=_grid_spec(tiling, num_tiles, query.dtype, pages.dtype),
        out_shape=jax.ShapeDtypeStruct(by_head.shape, query.dtype),
        interpret=interpret,
        name="ragged_attention",
    )(*scalars, by_head, row_tokens, *by_row, pages)
    by_token = jnp.moveaxis(out.reshape(num_kv_heads, -1, group_size, head_dim), 0, 1)
    return by_token.reshape(-1, num_heads, head_dim)[:num_tokens]


def _tiling_of(query: jax.Array, pages: jax.Array, step: StepArrays, vectors: Vectors) -> _Tiling:
    num_tokens, num_heads, head_dim = query.shape
    num_kv_heads, block_size = pages.shape[2] // 2, pages.shape[1]
    group_size = num_heads // num_kv_heads
    return _Tiling(
        tokens=min(num_tokens, max(8, _ROWS // group_size)),
        blocks=min(step.block_tables.shape[1], max(1, _KEYS // block_size)),
        block_size=block_size,
        group_size=group_size,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        has_slopes="alibi_slopes" in vectors,
        has_sinks="sinks" in vectors,
    )


def _present(tiling: _Tiling) -> list[str]:
    return ["alibi_slopes"] * tiling.has_slopes + ["sinks"] * tiling.has_sinks


def _grid_spec(
    tiling: _Tiling,
    num_tiles: int,
    dtype: Any,  # noqa: ANN401
    page_dtype: Any,  # noqa: ANN401
) -> pltpu.PrefetchScalarGridSpec:
    heads, rows = tiling.num_kv_heads, tiling.rows
    tile = pl.BlockSpec((heads, rows, tiling.head_dim), lambda number, *_: (0, number, 0))
    by_row = pl.BlockSpec((heads, rows, 1), lambda number, *_: (0, 0, 0))
    return pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=5,
        grid=(num_tiles,),
        in_specs=[
            tile,
            pl.BlockSpec((rows, 1), lambda number, *_: (0, 0)),
            *[by_row] * len(_present(tiling)),
            pl.BlockSpec(memory_space=pl.ANY),
        ],
        out_specs=tile,
        scratch_shapes=[
            pltpu.VMEM(
                (2, tiling.blocks, tiling.block_size, 2 * heads, tiling.head_dim), page_dtype
            ),
            pltpu.SemaphoreType.DMA((2,)),
            pltpu.VMEM((heads, rows, 1), jnp.float32),
            pltpu.VMEM((heads, rows, 1), jnp.float32),
            pltpu.VMEM((heads, rows, tiling.head_dim), jnp.float32),
        ],
    )


@final
@dataclass(frozen=True)
class _Walk:
    """Iterates over the groups of blocks that one tile of queries reads, sequence by sequence."""

    tiling: _Tiling
    rule: AttentionRule
    tile_start: jax.Array
    cu_query_lens: Mapping[Any, jax.Array]  # a reference, from which one number is read at a time
    context_lens: Mapping[Any, jax.Array]

    def first_position(self, sequence: jax.Array) -> jax.Array:
        """The position of the sequence's first query in the tile."""
        start, stop = self.cu_query_lens[sequence], self.cu_query_lens[sequence + 1]
        return self.context_lens[sequence] - (stop - jnp.maximum(start, self.tile_start))

    def first_group(self, sequence: jax.Array) -> jax.Array:
        """The first group to which a query of the tile attends."""
        if self.rule.window is None:
            group: jax.Array = jnp.int32(0)
            return group
        first_seen = jnp.maximum(self.first_position(sequence) - self.rule.window + 1, 0)
        return jax.lax.div(first_seen, jnp.int32(self.tiling.keys))

    def last_group(self, sequence: jax.Array) -> jax.Array:
        """The last group, which contains the position of the sequence's last query in the tile."""
        stop = self.cu_query_lens[sequence + 1]
        beyond = jnp.maximum(stop - (self.tile_start + self.tiling.tokens), 0)
        last_position = jnp.maximum(self.context_lens[sequence] - beyond - 1, 0)
        return jax.lax.div(last_position, jnp.int32(self.tiling.keys))

    def next(
        self, sequence: jax.Array, group: jax.Array, num_sequences: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return the next (sequence, group). The sequence may be outside the tile."""
        is_last = group >= self.last_group(sequence)
        following = jnp.where(is_last, sequence + 1, sequence)
        inside = jnp.minimum(following, num_sequences - 1)
        return following, jnp.where(is_last, self.first_group(inside), group + 1)

    def contains(self, sequence: jax.Array, num_sequences: jax.Array) -> jax.Array:
        """Whether the tile contains queries of the sequence."""
        inside = jnp.minimum(sequence, num_sequences - 1)
        return (sequence < num_sequences) & (
            self.cu_query_lens[inside] < self.tile_start + self.tiling.tokens
        )


@final
@dataclass(frozen=True)
class _BlockCopies:
    """The asynchronous copies of the blocks of a group to one of two buffers (`slot`)."""

    tiling: _Tiling
    context_lens: Ref
    block_tables: Ref
    pages: Ref
    buffers: Ref
    semaphores: Ref

    def start(self, sequence: jax.Array, group: jax.Array, slot: jax.Array) -> None:
        """Start the copies of the blocks that contain tokens."""
        for is_needed, copy in self._of(sequence, group, slot):
            pl.when(is_needed)(copy.start)

    def wait(self, sequence: jax.Array, group: jax.Array, slot: jax.Array) -> None:
        """Wait for the copies that `start` started."""
        for is_needed, copy in self._of(sequence, group, slot):
            pl.when(is_needed)(copy.wait)

    def _of(
        self, sequence: jax.Array, group: jax.Array, slot: jax.Array
    ) -> list[tuple[jax.Array, Any]]:
        """Return for each block of a group whether the block is needed, and its copy operation."""
        num_blocks = pl.cdiv(self.context_lens[sequence], self.tiling.block_size)
        last_column = self.block_tables.shape[1] - 1
        found = []
        for i in range(self.tiling.blocks):
            block = group * self.tiling.blocks + i
            source = self.pages.at[self.block_tables[sequence, jnp.minimum(block, last_column)]]
            copy = pltpu.make_async_copy(source, self.buffers.at[slot, i], self.semaphores.at[slot])
            found.append((block < num_blocks, copy))
        return found


def _kernel(tiling: _Tiling, rule: AttentionRule, *refs: Ref) -> None:
    """Compute one tile of queries. The arguments are references, in the order of `_grid_spec`."""
    (
        cu_query_lens,
        context_lens,
        block_tables,
        first_sequence,
        num_sequences_ref,
        query,
        row_tokens,
        *rest,
    ) = refs
    *by_row, pages, out, buffers, semaphores, largest, total, weighted = rest
    number, num_sequences = pl.program_id(0), num_sequences_ref[0]
    walk = _Walk(tiling, rule, number * tiling.tokens, cu_query_lens, context_lens)
    copies = _BlockCopies(tiling, context_lens, block_tables, pages, buffers, semaphores)
    slopes = by_row[0] if tiling.has_slopes else None
    sinks = by_row[-1] if tiling.has_sinks else None
    weighted[...] = jnp.zeros(weighted.shape, jnp.float32)
    largest[...] = jnp.full(largest.shape, _HIDDEN, jnp.float32) if sinks is None else sinks[...]
    total[...] = jnp.full(total.shape, 0.0 if sinks is None else 1.0, jnp.float32)

    def visit(
        state: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        sequence, group, slot = state
        next_sequence, next_group = walk.next(sequence, group, num_sequences)

        @pl.when(walk.contains(next_sequence, num_sequences))
        def _() -> None:
            copies.start(next_sequence, next_group, 1 - slot)

        copies.wait(sequence, group, slot)
        masks = _masks(walk, sequence, group, row_tokens[...])
        for head in range(tiling.num_kv_heads):
            key, value = _head_of(buffers, slot, head, tiling)
            scores = _scores(
                rule, query[head], key, masks, None if slopes is None else slopes[head]
            )
            _accumulate(scores, value, masks, (largest.at[head], total.at[head], weighted.at[head]))
        return next_sequence, next_group, 1 - slot

    first = first_sequence[number]
    inside = jnp.minimum(first, num_sequences - 1)

    @pl.when(walk.contains(first, num_sequences))
    def _() -> None:
        copies.start(first, walk.first_group(inside), jnp.int32(0))

    begin = (first, walk.first_group(inside), jnp.int32(0))
    jax.lax.while_loop(lambda state: walk.contains(state[0], num_sequences), visit, begin)
    # A padding row attends to no key, so its total is 0.
    out[...] = (weighted[...] / jnp.maximum(total[...], _TINY)).astype(out.dtype)


@final
@dataclass(frozen=True)
class _Masks:
    """The masks and distances between the rows of a tile and the keys of a group."""

    is_seen: jax.Array  # bool [rows, keys]
    distance: jax.Array  # int32 [rows, keys], position of the query minus position of the key
    is_written: jax.Array  # bool [keys, 1]


def _masks(walk: _Walk, sequence: jax.Array, group: jax.Array, row_tokens: jax.Array) -> _Masks:
    """Compute the masks for one sequence. For rows of other sequences all keys are masked."""
    tiling, window = walk.tiling, walk.rule.window
    start, stop = walk.cu_query_lens[sequence], walk.cu_query_lens[sequence + 1]
    context_len = walk.context_lens[sequence]
    tokens = row_tokens + walk.tile_start
    positions = context_len - stop + tokens
    first_key = group * tiling.keys
    distance = positions - (
        first_key + jax.lax.broadcasted_iota(jnp.int32, (tiling.rows, tiling.keys), 1)
    )
    is_seen = (distance >= 0) & (tokens >= start) & (tokens < stop)
    if window is not None:
        is_seen = is_seen & (distance < window)
    is_written = first_key + jax.lax.broadcasted_iota(jnp.int32, (tiling.keys, 1), 0) < context_len
    return _Masks(is_seen, distance, is_written)


def _head_of(
    buffers: Ref, slot: jax.Array, head: int, tiling: _Tiling
) -> tuple[jax.Array, jax.Array]:
    """Read key and value [keys, D] of one head from a buffer [2, blocks, B, 2 K, D]."""
    shape = (tiling.keys, tiling.head_dim)
    if jnp.dtype(buffers.dtype).itemsize == 4:
        return buffers[slot, :, :, 2 * head, :].reshape(shape), buffers[
            slot, :, :, 2 * head + 1, :
        ].reshape(shape)
    # Key and value of a head are the two halves of a 32-bit register row.
    packed = pltpu.bitcast(
        buffers[slot].reshape(tiling.keys, 2 * tiling.num_kv_heads, tiling.head_dim), jnp.uint32
    )[:, head, :]
    low = jax.lax.bitcast_convert_type(packed << 16, jnp.float32)
    high = jax.lax.bitcast_convert_type(packed & jnp.uint32(0xFFFF0000), jnp.float32)
    return low.astype(buffers.dtype), high.astype(buffers.dtype)


def _scores(
    rule: AttentionRule, query: jax.Array, key: jax.Array, masks: _Masks, slopes: jax.Array | None
) -> jax.Array:
    """Compute the scores float32 [rows, keys] of one head."""
    product = _dot(query, key, contracting=1)
    scores = softcap(product * rule.scale, rule.softcap)
    if slopes is not None:
        scores = scores - slopes * masks.distance.astype(jnp.float32)
    return jnp.where(masks.is_seen, scores, _HIDDEN)


def _accumulate(
    scores: jax.Array, value: jax.Array, masks: _Masks, state: tuple[Ref, Ref, Ref]
) -> None:
    """Add a group of keys to the running softmax of one head's rows.

    `state` consists of the greatest score, the sum and the weighted values.
    """
    largest, total, weighted = state
    before = largest[...]
    after = jnp.maximum(before, jnp.max(scores, axis=-1, keepdims=True))
    # If all keys of a row have been masked until now, `after` is the score of a masked key.
    shares = jnp.where(masks.is_seen, jnp.exp(scores - after), 0.0)
    decay = jnp.exp(before - after)
    largest[...] = after
    total[...] = total[...] * decay + jnp.sum(shares, axis=-1, keepdims=True)
    # Values in slots that were never written are replaced, because they may be NaN, and zero times
    # NaN is NaN.
    clean = jnp.where(masks.is_written, value, jnp.zeros_like(value))
    weighted[...] = weighted[...] * decay + _dot(shares.astype(value.dtype), clean, contracting=0)


def _dot(left: jax.Array, right: jax.Array, *, contracting: int) -> jax.Array:
    """Multiply left [M, N] by right over right's axis `contracting`, summed in float32."""
    precision = jax.lax.Precision.HIGHEST if left.dtype == jnp.float32 else None
    dimensions = (((1,), (contracting,)), ((), ()))
    return jax.lax.dot_general(
        left, right, dimensions, precision=precision, preferred_element_type=jnp.float32
    )
