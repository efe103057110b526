"""The paged key-value cache: blocks of tokens, one pair of tensors per attention layer, one block table for all layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from tgi.architectures import Attention, ModelSpec

__all__ = ["KVCache", "LayerCache", "attention_layers", "bytes_per_block"]


@final
@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer. A token's slot is block * block_size + offset."""

    key: Tensor  # [num_blocks, block_size, num_kv_heads, head_dim]
    value: Tensor  # [num_blocks, block_size, num_kv_heads, v_head_dim]

    def gather(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of the keys and values at `slots` (int64 [N]): two of [N, num_kv_heads, head size]."""
        return _take(self.key, slots), _take(self.value, slots)


@final
@dataclass(frozen=True)
class KVCache:
    """The caches of all attention layers, in the order of the layers. Blocks start undefined and are never cleared."""

    layers: tuple[LayerCache, ...]
    num_blocks: int
    block_size: int  # tokens

    @classmethod
    def allocate(
        cls, spec: ModelSpec, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device | str
    ) -> KVCache:
        """Reserve `num_blocks` blocks; memory that the system maps on first use stays untouched until then."""
        layers = tuple(
            LayerCache(
                key=torch.empty(num_blocks, block_size, layer.num_kv_heads, layer.head_dim, dtype=dtype, device=device),
                value=torch.empty(num_blocks, block_size, layer.num_kv_heads, _value_dim(layer), dtype=dtype, device=device),
            )
            for layer in attention_layers(spec)
        )
        return cls(layers=layers, num_blocks=num_blocks, block_size=block_size)

    def copy_blocks(self, sources: Tensor, targets: Tensor) -> None:
        """Copy whole blocks in every layer; int64 [N] each. All sources are read before any target is written."""
        for layer in self.layers:
            for side in (layer.key, layer.value):
                side.index_copy_(0, targets, side.index_select(0, sources))


def attention_layers(spec: ModelSpec) -> tuple[Attention, ...]:
    """The decoder's attention mixers in order: those that own a `LayerCache`."""
    return tuple(
        branch.mixer
        for layer in spec.decoder.layers
        for block in layer.blocks
        for branch in block.branches
        if isinstance(branch.mixer, Attention)
    )


def bytes_per_block(spec: ModelSpec, block_size: int, dtype: torch.dtype) -> int:
    """Bytes that one block of `block_size` tokens takes over all layers."""
    values = sum(layer.num_kv_heads * (layer.head_dim + _value_dim(layer)) for layer in attention_layers(spec))
    return values * block_size * dtype.itemsize


def _take(side: Tensor, slots: Tensor) -> Tensor:
    # Selecting rows of a matrix is several times faster than selecting slices of a tensor of three dimensions.
    return side.flatten(0, 1).flatten(1).index_select(0, slots).view(-1, *side.shape[2:])


def _value_dim(layer: Attention) -> int:
    return layer.head_dim if layer.v_head_dim is None else layer.v_head_dim
