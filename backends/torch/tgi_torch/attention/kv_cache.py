"""The cache of every mixer that keeps data between steps.

Attention keeps blocks of tokens: a pair of tensors per layer, and one block table for all layers.
Cross-attention keeps blocks of the encoder's tokens. A recurrent mixer keeps one state per
sequence and one per snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from tgi.architectures import LatentAttention, ModelSpec
from tgi.worker.cache_format import CacheCoding, CacheScales
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
from tgi_torch.attention.cache_codes import FLOAT_CODES, CacheCodec, FloatCodec, IntegerCodec

__all__ = ["KVCache", "LayerCache", "LayerState", "bytes_per_block"]


@final
@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer. The slot of a token is block * block_size + offset.

    With a codec, the tensors contain codes, uint8.
    """

    key: Tensor  # [num_blocks, block_size, num_kv_heads, head_dim]
    # Shape [num_blocks, block_size, num_kv_heads, v_head_dim]. In latent attention the values are a
    # view of the first part of the keys.
    value: Tensor
    key_codec: CacheCodec | None = None
    value_codec: CacheCodec | None = None  # in latent attention, the codec of the keys

    def write(self, key: Tensor, value: Tensor, slots: Tensor) -> None:
        """Store the keys [N, num_kv_heads, head_dim] and the values of N tokens at `slots` (int64
        [N]). In latent attention, `value` must be the first part of `key`.
        """
        keys = self.key, self.key_codec, key
        stored = (keys,) if self.shares_values else (keys, (self.value, self.value_codec, value))
        for side, codec, values in stored:
            codes = values.to(side.dtype) if codec is None else codec.encode(values, slots)
            side.flatten(0, 1).index_copy_(0, slots, codes)

    def gather(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Copy the keys and values at `slots` (int64 [N]).

        Returns two tensors [N, num_kv_heads, head size].
        """
        key, value = _take(self.key, slots), _take(self.value, slots)
        if self.key_codec is None or self.value_codec is None:
            return key, value
        return self.key_codec.decode(key, slots), self.value_codec.decode(value, slots)

    @cached_property
    def shares_values(self) -> bool:
        """Whether the values are a view of the keys."""
        return self.value.data_ptr() == self.key.data_ptr()

    @property
    def owned(self) -> tuple[Tensor, ...]:
        """The tensors that are not views of other tensors, including the scales of tokens."""
        sides = (
            ((self.key, self.key_codec),)
            if self.shares_values
            else ((self.key, self.key_codec), (self.value, self.value_codec))
        )
        scales = (codec.scales for _, codec in sides if codec is not None)
        return (
            *(side for side, _ in sides),
            *(scale for scale in scales if scale is not None),
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
        coding: CacheCoding | None = None,
    ) -> KVCache:
        """Allocate the tensors that `spec` needs.

        The cache has `num_blocks` blocks of tokens, `num_blocks` blocks of encoder tokens, and
        `num_states` states. With a `coding`, blocks contain codes, and states still have `dtype`.
        The tensors are not written, so a system that maps memory on first use does not map this
        memory yet.
        """
        blocks = _Blocks(num_blocks, block_size, dtype, torch.device(device), coding)
        attentions = attention_layers(spec)
        scales = (CacheScales(),) * len(attentions) if coding is None else coding.scales

        def allocate_state(mixer: RecurrentMixer) -> LayerState:
            window, recurrent = recurrent_shapes(mixer)
            return LayerState(
                window=torch.empty(num_states, *window, dtype=dtype, device=device),
                recurrent=torch.empty(num_states, *recurrent, dtype=torch.float32, device=device),
            )

        return cls(
            layers=tuple(map(blocks.of_attention, attentions, scales)),
            num_blocks=num_blocks,
            block_size=block_size,
            cross_layers=tuple(
                blocks.of_heads(mixer.num_heads, mixer.head_dim, mixer.head_dim, CacheScales())
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


@final
@dataclass(frozen=True)
class _Blocks:
    """Allocates the blocks of one layer after the other."""

    num_blocks: int
    block_size: int
    dtype: torch.dtype
    device: torch.device
    coding: CacheCoding | None

    def of_attention(self, mixer: TokenMixer, scales: CacheScales) -> LayerCache:
        """Allocate the keys and values of a self-attention layer."""
        if isinstance(mixer, LatentAttention):
            key = self._side(1, mixer.kv_lora_rank + mixer.qk_rope_head_dim)
            codec = self._codec(1, scales.key)
            return LayerCache(key, key[..., : mixer.kv_lora_rank], codec, codec)
        return self.of_heads(mixer.num_kv_heads, mixer.head_dim, value_dim(mixer), scales)

    def of_heads(
        self, num_heads: int, key_dim: int, value_dim: int, scales: CacheScales
    ) -> LayerCache:
        """Allocate keys and values of the given sizes."""
        return LayerCache(
            self._side(num_heads, key_dim),
            self._side(num_heads, value_dim),
            self._codec(num_heads, scales.key),
            self._codec(num_heads, scales.value),
        )

    def _side(self, num_heads: int, size: int) -> Tensor:
        dtype = self.dtype if self.coding is None else torch.uint8
        return self._empty(num_heads, size, dtype=dtype)

    def _codec(self, num_heads: int, scale: float) -> CacheCodec | None:
        if self.coding is None:
            return None
        kind = self.coding.format.kind
        if kind in FLOAT_CODES:
            return FloatCodec(FLOAT_CODES[kind], scale, self.dtype)
        return IntegerCodec(self._empty(num_heads, dtype=torch.float32), self.dtype)

    def _empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(
            self.num_blocks, self.block_size, *shape, dtype=dtype, device=self.device
        )


def bytes_per_block(spec: ModelSpec, block_size: int, dtype: torch.dtype) -> int:
    """Size in bytes of one block of `block_size` tokens over all layers.

    The size includes the block of encoder tokens if the model has an encoder.
    """
    return values_per_token(spec) * block_size * dtype.itemsize


def _take(side: Tensor, slots: Tensor) -> Tensor:
    # It is several times faster to select rows of a matrix than to select slices of a tensor with
    # three dimensions.
    return side.flatten(0, 1).flatten(1).index_select(0, slots).view(-1, *side.shape[2:])
