"""The cache of every mixer that keeps data between steps.

Attention keeps blocks of tokens: a pair of tensors per layer, and one block table for all layers.
Cross-attention keeps blocks of the encoder's tokens. A recurrent mixer keeps one state per
sequence and one per snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from tgi.architectures import LatentAttention, ModelSpec
from tgi.worker.cache_layout import (
    RecurrentMixer,
    TokenMixer,
    attention_layers,
    cross_layers,
    recurrent_layers,
    recurrent_shapes,
    value_dim,
    values_per_token,
)

__all__ = ["KVCache", "LayerCache", "LayerState", "bytes_per_block"]


@final
@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer. The slot of a token is block * block_size + offset."""

    key: Tensor  # [num_blocks, block_size, num_kv_heads, head_dim]
    # Shape [num_blocks, block_size, num_kv_heads, v_head_dim]. In latent attention the values are a
    # view of the first part of the keys.
    value: Tensor

    def gather(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Copy the keys and values at `slots` (int64 [N]).

        Returns two tensors [N, num_kv_heads, head size].
        """
        return _take(self.key, slots), _take(self.value, slots)

    @property
    def owned(self) -> tuple[Tensor, ...]:
        """The tensors that are not views of other tensors."""
        return (
            (self.key,) if self.value.data_ptr() == self.key.data_ptr() else (self.key, self.value)
        )


@final
@dataclass(frozen=True)
class LayerState:
    """The state of one recurrent layer for all sequences and snapshots.

    The state consists of the last inputs of the convolution and the recurrent state.
    """

    window: Tensor  # [num_states, channels, kernel - 1], oldest first
    recurrent: Tensor  # float32 [num_states, heads, ..., ...]


@final
@dataclass(frozen=True)
class KVCache:
    """The caches of all layers, each kind in the order of its layers.

    Blocks and states are uninitialised. A block is never cleared, because no operation reads a slot
    that was not written. A state is cleared when its sequence starts.
    """

    layers: tuple[LayerCache, ...]
    num_blocks: int
    block_size: int  # tokens
    cross_layers: tuple[LayerCache, ...] = ()  # for encoder tokens, with as many blocks as `layers`
    states: tuple[LayerState, ...] = ()

    @classmethod
    def allocate(  # noqa: PLR0917 - sizes, then dtype and device
        cls,
        spec: ModelSpec,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device | str,
        num_states: int = 0,
    ) -> KVCache:
        """Allocate the tensors that `spec` needs.

        The cache has `num_blocks` blocks of tokens, `num_blocks` blocks of encoder tokens, and
        `num_states` states. The tensors are not written, so a system that maps memory on first use
        does not map this memory yet.
        """

        def allocate_blocks(num_heads: int, size: int) -> Tensor:
            return torch.empty(num_blocks, block_size, num_heads, size, dtype=dtype, device=device)

        def allocate_keys_and_values(mixer: TokenMixer) -> LayerCache:
            if isinstance(mixer, LatentAttention):
                key = allocate_blocks(1, mixer.kv_lora_rank + mixer.qk_rope_head_dim)
                return LayerCache(key=key, value=key[..., : mixer.kv_lora_rank])
            return LayerCache(
                key=allocate_blocks(mixer.num_kv_heads, mixer.head_dim),
                value=allocate_blocks(mixer.num_kv_heads, value_dim(mixer)),
            )

        def allocate_state(mixer: RecurrentMixer) -> LayerState:
            window, recurrent = recurrent_shapes(mixer)
            return LayerState(
                window=torch.empty(num_states, *window, dtype=dtype, device=device),
                recurrent=torch.empty(num_states, *recurrent, dtype=torch.float32, device=device),
            )

        return cls(
            layers=tuple(allocate_keys_and_values(mixer) for mixer in attention_layers(spec)),
            num_blocks=num_blocks,
            block_size=block_size,
            cross_layers=tuple(
                LayerCache(*(allocate_blocks(mixer.num_heads, mixer.head_dim) for _ in range(2)))
                for mixer in cross_layers(spec)
            ),
            states=tuple(allocate_state(mixer) for mixer in recurrent_layers(spec)),
        )

    def copy_blocks(self, sources: Tensor, targets: Tensor) -> None:
        """Copy whole blocks of tokens in every layer. `sources` and `targets` are int64 [N].

        All sources are read before any target is written.
        """
        for layer in self.layers:
            for side in layer.owned:
                side.index_copy_(0, targets, side.index_select(0, sources))

    def copy_states(self, sources: Tensor, targets: Tensor) -> None:
        """Copy whole states in every recurrent layer. `sources` and `targets` are int64 [N].

        All sources are read before any target is written. The copies are bit-equal.
        """
        for layer in self.states:
            for side in (layer.window, layer.recurrent):
                side.index_copy_(0, targets, side.index_select(0, sources))

    def clear_states(self, states: Tensor) -> None:
        """Reset `states` (int64 [N]) to the beginning of a sequence."""
        for layer in self.states:
            layer.window.index_fill_(0, states, 0)
            layer.recurrent.index_fill_(0, states, 0)


def bytes_per_block(spec: ModelSpec, block_size: int, dtype: torch.dtype) -> int:
    """Size in bytes of one block of `block_size` tokens over all layers.

    The size includes the block of encoder tokens if the model has an encoder.
    """
    return values_per_token(spec) * block_size * dtype.itemsize


def _take(side: Tensor, slots: Tensor) -> Tensor:
    # It is several times faster to select rows of a matrix than to select slices of a tensor with
    # three dimensions.
    return side.flatten(0, 1).flatten(1).index_select(0, slots).view(-1, *side.shape[2:])
