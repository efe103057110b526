"""Attention over the paged cache: the entries `plan_attention` and `paged_attention` of the
operation table.

Shapes: T tokens, R rows, H query heads, K kv heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from tgi_torch.attention.kv_cache import LayerCache
from tgi_torch.attention.paged import AttentionMetadata, AttentionSettings
from tgi_triton.configs import attention_config, current_kind
from tgi_triton.kernels.attention import attend, merge_parts
from tgi_triton.kernels.small_floats import FLOAT
from tgi_triton.launch import dot_dtype, next_power_of_two

__all__ = ["AttentionPlan", "TileGroup", "paged_attention", "plan_attention"]

_MIN_DOT = 16  # the smallest size of an operand of `tl.dot`
_KEYS_OF_A_PART = 256  # a part of the context has at least this many positions
_WANTED_PROGRAMS = 256  # about two programs for each multiprocessor of a large GPU


@final
@dataclass(frozen=True)
class TileGroup:
    """Tiles of the same size. A tile contains `block_tokens` query tokens of one row."""

    rows: Tensor  # int32 [tiles]
    starts: Tensor  # int32 [tiles], index of the first query token in its row
    block_tokens: int
    max_context: int  # the largest context of the rows


@final
@dataclass(frozen=True)
class AttentionPlan:
    """The tiles of one step, for all layers with the same window."""

    metadata: AttentionMetadata
    window: int | None
    groups: tuple[TileGroup, ...]


def plan_attention(
    metadata: AttentionMetadata, block_size: int, window: int | None
) -> AttentionPlan:
    """Divide the rows into tiles. Rows of one token have tiles of one token, so that their context
    can be divided among programs.
    """
    del block_size  # the cache contains the block size
    single = [row for row, count in enumerate(metadata.query_lens) if count == 1]
    longer = [row for row, count in enumerate(metadata.query_lens) if count > 1]
    groups = []
    if single:
        groups.append(_group(metadata, single, 1))
    if longer:
        config = attention_config(current_kind(), is_decode=False, head_dim=1)
        groups.append(_group(metadata, longer, config.query_tokens))
    return AttentionPlan(metadata, window, tuple(groups))


def _group(metadata: AttentionMetadata, rows: Sequence[int], block_tokens: int) -> TileGroup:
    tiles = [
        (row, start) for row in rows for start in range(0, metadata.query_lens[row], block_tokens)
    ]
    array = torch.from_numpy(np.array(tiles, np.int32)).to(metadata.block_tables.device)
    contexts = [metadata.context_lens[row] for row in rows]
    return TileGroup(
        array[:, 0].contiguous(), array[:, 1].contiguous(), block_tokens, max(contexts)
    )


def paged_attention(
    query: Tensor, cache: LayerCache, plan: AttentionPlan, settings: AttentionSettings
) -> Tensor:
    """Compute the attention of `query` [T, H, D] over the tokens of each row in `cache`.

    The keys and values of this step must be in the cache. Returns [T, H * Dv] in the query's dtype.
    Raises `ValueError` for a bias that depends on relative positions by a table.
    """
    if settings.relative_bias is not None:
        raise ValueError("a table of relative positions is not supported")
    num_tokens, num_heads, _ = query.shape
    out = query.new_empty(num_tokens, num_heads, cache.value.shape[-1])
    for group in plan.groups:
        _attend_group(query.contiguous(), cache, plan, group, settings, out)
    return out.flatten(1)


def _attend_group(  # noqa: PLR0917 - the arguments of `paged_attention`, a group, and the result
    query: Tensor,
    cache: LayerCache,
    plan: AttentionPlan,
    group: TileGroup,
    settings: AttentionSettings,
    out: Tensor,
) -> None:
    num_tokens, num_heads, head_dim = query.shape
    _, block_size, num_kv_heads, value_dim = cache.value.shape
    heads_per_kv = num_heads // num_kv_heads
    num_tiles = len(group.rows)
    num_parts = _num_parts(num_tiles * num_kv_heads, group) if group.block_tokens == 1 else 1
    config = attention_config(current_kind(), is_decode=group.block_tokens == 1, head_dim=head_dim)
    main = 1 << (head_dim.bit_length() - 1)
    metadata, missing = plan.metadata, query.new_empty(0, dtype=torch.float32)
    target, sums = out, missing
    if num_parts > 1:
        target = query.new_empty(num_tokens, num_heads, num_parts, value_dim, dtype=torch.float32)
        sums = query.new_empty(num_tokens, num_heads, num_parts, 2, dtype=torch.float32)
    attend[(num_tiles, num_kv_heads, num_parts)](
        query,
        cache.key,
        cache.value,
        target,
        sums,
        metadata.block_tables,
        metadata.seq_lens,
        metadata.cu_seqlens_q,
        group.rows,
        group.starts,
        missing if settings.alibi_slopes is None else settings.alibi_slopes,
        missing if settings.sinks is None else settings.sinks.float(),
        metadata.block_tables.stride(0),
        settings.scale,
        settings.softcap or 0.0,
        1.0,
        1.0,
        plan.window or 0,
        KV_HEADS=num_kv_heads,
        GROUP=heads_per_kv,
        HEAD_DIM=head_dim,
        VALUE_DIM=value_dim,
        BLOCK_SIZE=block_size,
        BLOCK_TOKENS=group.block_tokens,
        BLOCK_M=max(_MIN_DOT, next_power_of_two(group.block_tokens * heads_per_kv)),
        BLOCK_N=config.keys,
        BLOCK_D=main,
        BLOCK_REST=max(_MIN_DOT, next_power_of_two(head_dim - main)),
        BLOCK_V=next_power_of_two(value_dim),
        NUM_PARTS=num_parts,
        CACHE_KIND=FLOAT.value,
        DOT_DTYPE=dot_dtype(query.dtype),
        SHARED_VALUES=cache.value.data_ptr() == cache.key.data_ptr(),
        **_features(plan, settings),
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    if num_parts > 1:
        _merge(target, sums, group, metadata, out)


def _features(plan: AttentionPlan, settings: AttentionSettings) -> dict[str, bool]:
    return {
        "HAS_WINDOW": plan.window is not None,
        "HAS_SOFTCAP": settings.softcap is not None,
        "HAS_SLOPES": settings.alibi_slopes is not None,
        "HAS_SINKS": settings.sinks is not None,
    }


def _merge(
    parts: Tensor, sums: Tensor, group: TileGroup, metadata: AttentionMetadata, out: Tensor
) -> None:
    """Combine the parts of the rows with one token, whose tokens may be anywhere in the step."""
    num_parts, value_dim = parts.shape[2:]
    tokens = metadata.cu_seqlens_q[group.rows.long()]
    merge_parts[(len(group.rows), out.shape[1])](
        parts,
        sums,
        out,
        tokens,
        NUM_HEADS=out.shape[1],
        VALUE_DIM=value_dim,
        NUM_PARTS=num_parts,
        BLOCK_PARTS=next_power_of_two(num_parts),
        BLOCK_V=next_power_of_two(value_dim),
    )


def _num_parts(num_programs: int, group: TileGroup) -> int:
    """Divide the contexts so that enough programs run, but each program has enough work."""
    wanted = -(-_WANTED_PROGRAMS // num_programs)
    return max(1, min(wanted, group.max_context // _KEYS_OF_A_PART))
