"""Attention over the paged cache: the operations `plan_attention` and `paged_attention` of the
table in `tgi_torch.ops`.

Shapes: T tokens, R rows, H query heads, K kv heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from tgi_torch.attention.key_range import KeyRange
from tgi_torch.attention.kv_cache import LayerCache
from tgi_torch.attention.paged import AttentionMetadata, AttentionSettings
from tgi_triton.configs import AttentionConfig, attention_config, current_kind
from tgi_triton.kernels.attention import (
    AttentionSizes,
    CacheArguments,
    ScoreArguments,
    TileArguments,
    attend,
    merge_parts,
)
from tgi_triton.kernels.small_floats import FLOAT
from tgi_triton.launch import Kernel, dot_dtype, next_power_of_two

__all__ = ["AttentionPlan", "PagedAttention", "TileGroup", "plan_attention"]

_MIN_DOT = 16  # the smallest size of an operand of `tl.dot`


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
    metadata: AttentionMetadata, block_size: int, key_range: KeyRange
) -> AttentionPlan:
    """Divide the rows into tiles. Rows of one token have tiles of one token, so that their context
    can be divided among programs. Raises `ValueError` if the attention is divided into chunks.
    """
    if key_range.chunk is not None:
        raise ValueError("attention in chunks is not supported")
    del block_size  # the cache contains the block size
    single = [row for row, count in enumerate(metadata.query_lens) if count == 1]
    longer = [row for row, count in enumerate(metadata.query_lens) if count > 1]
    groups = []
    if single:
        groups.append(_group(metadata, single, 1))
    if longer:
        config = attention_config(current_kind(), is_decode=False, head_dim=1)
        groups.append(_group(metadata, longer, config.query_tokens))
    return AttentionPlan(metadata, key_range.window, tuple(groups))


def _group(metadata: AttentionMetadata, rows: Sequence[int], block_tokens: int) -> TileGroup:
    tiles = [
        (row, start) for row in rows for start in range(0, metadata.query_lens[row], block_tokens)
    ]
    array = torch.from_numpy(np.array(tiles, np.int32)).to(metadata.block_tables.device)
    contexts = [metadata.context_lens[row] for row in rows]
    return TileGroup(
        array[:, 0].contiguous(), array[:, 1].contiguous(), block_tokens, max(contexts)
    )


@final
@dataclass(frozen=True)
class PagedAttention:
    """The operation `paged_attention`.

    The context of a row with one token is divided into parts of at least `part_keys` positions, if
    fewer than `wanted_programs` programs would run otherwise. The default is about two programs for
    each multiprocessor of a large GPU.
    """

    part_keys: int = 256
    wanted_programs: int = 256
    attend: Kernel = attend
    merge_parts: Kernel = merge_parts

    def __call__(
        self, query: Tensor, cache: LayerCache, plan: AttentionPlan, settings: AttentionSettings
    ) -> Tensor:
        """Compute the attention of `query` [T, H, D] over the tokens of each row in `cache`.

        The keys and values of this step must be in the cache. Returns [T, H * Dv] in the query's
        dtype. Raises `ValueError` if the bias is a table of relative positions.
        """
        if settings.relative_bias is not None:
            raise ValueError("a table of relative positions is not supported")
        num_tokens, num_heads, _ = query.shape
        out = query.new_empty(num_tokens, num_heads, cache.value.shape[-1])
        launch = _Launch(query.contiguous(), cache, plan, settings, out)
        for group in plan.groups:
            self._attend_group(launch, group)
        return out.flatten(1)

    def _attend_group(self, launch: _Launch, group: TileGroup) -> None:
        query, cache, out = launch.query, launch.cache, launch.out
        num_tokens, num_heads, _ = query.shape
        num_kv_heads = cache.value.shape[2]
        num_programs = len(group.rows) * num_kv_heads
        num_parts = self._num_parts(num_programs, group) if group.block_tokens == 1 else 1
        target, sums = out, query.new_empty(0, dtype=torch.float32)
        if num_parts > 1:
            sizes = (num_tokens, num_heads, num_parts)
            target = query.new_empty(*sizes, out.shape[-1], dtype=torch.float32)
            sums = query.new_empty(*sizes, 2, dtype=torch.float32)
        config = launch.config(group)
        self.attend[(len(group.rows), num_kv_heads, num_parts)](
            query,
            launch.cache_arguments,
            launch.tile_arguments(group),
            launch.score_arguments,
            target,
            sums,
            SIZES=launch.sizes(group, config, num_parts),
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
        if num_parts > 1:
            # The tokens of the rows may be anywhere in the step.
            tokens = launch.plan.metadata.cu_seqlens_q[group.rows.long()]
            self.merge_parts[(len(group.rows), num_heads)](
                target,
                sums,
                out,
                tokens,
                NUM_HEADS=num_heads,
                VALUE_DIM=out.shape[-1],
                NUM_PARTS=num_parts,
                BLOCK_PARTS=next_power_of_two(num_parts),
                BLOCK_V=next_power_of_two(out.shape[-1]),
            )

    def _num_parts(self, num_programs: int, group: TileGroup) -> int:
        """Divide the contexts so that enough programs run, but each program has enough work."""
        wanted = -(-self.wanted_programs // num_programs)
        return max(1, min(wanted, group.max_context // self.part_keys))


@final
@dataclass(frozen=True)
class _Launch:
    """One layer of a step."""

    query: Tensor
    cache: LayerCache
    plan: AttentionPlan
    settings: AttentionSettings
    out: Tensor

    @property
    def cache_arguments(self) -> CacheArguments:
        """The arguments of the kernel that describe the cache."""
        tables = self.plan.metadata.block_tables
        return CacheArguments(self.cache.key, self.cache.value, 1.0, 1.0, tables, tables.stride(0))

    @property
    def score_arguments(self) -> ScoreArguments:
        """The arguments of the kernel that describe the scores."""
        settings, missing = self.settings, self.query
        return ScoreArguments(
            settings.scale,
            settings.softcap or 0.0,
            self.plan.window or 0,
            missing if settings.alibi_slopes is None else settings.alibi_slopes,
            missing if settings.sinks is None else settings.sinks.float(),
        )

    def tile_arguments(self, group: TileGroup) -> TileArguments:
        """The arguments of the kernel that describe the tiles."""
        metadata = self.plan.metadata
        return TileArguments(metadata.seq_lens, metadata.cu_seqlens_q, group.rows, group.starts)

    def config(self, group: TileGroup) -> AttentionConfig:
        """The tile sizes for the current GPU."""
        is_decode, head_dim = group.block_tokens == 1, self.query.shape[-1]
        return attention_config(current_kind(), is_decode=is_decode, head_dim=head_dim)

    def sizes(self, group: TileGroup, config: AttentionConfig, num_parts: int) -> AttentionSizes:
        """The values that are known when the kernel is compiled."""
        num_heads, head_dim = self.query.shape[1:]
        _, block_size, num_kv_heads, value_dim = self.cache.value.shape
        heads_per_kv = num_heads // num_kv_heads
        main = 1 << (head_dim.bit_length() - 1)
        return AttentionSizes(
            kv_heads=num_kv_heads,
            group=heads_per_kv,
            head_dim=head_dim,
            value_dim=value_dim,
            block_size=block_size,
            block_tokens=group.block_tokens,
            block_m=max(_MIN_DOT, next_power_of_two(group.block_tokens * heads_per_kv)),
            block_n=config.keys,
            block_d=main,
            block_rest=max(_MIN_DOT, next_power_of_two(head_dim - main)),
            block_v=next_power_of_two(value_dim),
            num_parts=num_parts,
            cache_kind=FLOAT.value,
            dot_dtype=dot_dtype(self.query.dtype),
            has_window=self.plan.window is not None,
            has_softcap=self.settings.softcap is not None,
            has_slopes=self.settings.alibi_slopes is not None,
            has_sinks=self.settings.sinks is not None,
            shared_values=self.cache.shares_values,
        )
