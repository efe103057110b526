"""The sizes of the caches and states that a model's mixers keep between steps.

This module imports no framework.
"""

from __future__ import annotations

import math
from typing import Literal

from tgi.architectures import (
    Attention,
    CrossAttention,
    GatedRecurrence,
    GenericSpec,
    LatentAttention,
    LightningAttention,
    LinearAttention,
    ModelSpec,
    ShortConvolution,
    StateSpace,
)

__all__ = [
    "ENCODER_QUERY_CHUNK",
    "GroupKind",
    "RecurrentMixer",
    "TokenMixer",
    "attention_layers",
    "cross_layers",
    "group_kinds",
    "recurrent_layers",
    "recurrent_shapes",
    "scales_per_token",
    "state_values",
    "value_dim",
    "values_per_token",
]

TokenMixer = Attention | LatentAttention
"""Mixers that store values for every token."""

RecurrentMixer = (
    StateSpace | LinearAttention | ShortConvolution | GatedRecurrence | LightningAttention
)
"""Mixers that store one state of constant size per sequence."""

GroupKind = Literal["full", "state", "cross"]

ENCODER_QUERY_CHUNK = 256
"""Maximum number of encoder queries whose attention scores are in memory at the same time."""

Shape = tuple[int, ...]


def attention_layers(spec: ModelSpec) -> tuple[TokenMixer, ...]:
    """Return the decoder's self-attention mixers that have a cache, in order."""
    return tuple(
        mixer
        for mixer in spec.decoder.mixers
        if isinstance(mixer, LatentAttention)
        or (isinstance(mixer, Attention) and mixer.cache_of_layer is None)
    )


def cross_layers(spec: ModelSpec) -> tuple[CrossAttention, ...]:
    """Return the decoder's cross-attention mixers in order."""
    return tuple(mixer for mixer in spec.decoder.mixers if isinstance(mixer, CrossAttention))


def recurrent_layers(spec: ModelSpec) -> tuple[RecurrentMixer, ...]:
    """Return the decoder's recurrent mixers in order."""
    return tuple(mixer for mixer in spec.decoder.mixers if isinstance(mixer, RecurrentMixer))


def group_kinds(spec: ModelSpec | GenericSpec) -> tuple[GroupKind, ...]:
    """Return the kinds of the cache groups of a model, in the order in which they are negotiated.

    Layers with a window belong to the group `full`. Their window masks keys, but does not reduce
    the memory. A model of an unknown architecture has the groups `full`, which counts the tokens in
    blocks, and `state`, with one cache object per sequence.
    """
    if isinstance(spec, GenericSpec):
        return ("full", "state")
    kinds: dict[GroupKind, bool] = {
        "full": bool(attention_layers(spec)),
        "state": bool(recurrent_layers(spec)),
        "cross": bool(cross_layers(spec)),
    }
    return tuple(kind for kind, is_needed in kinds.items() if is_needed)


def values_per_token(spec: ModelSpec | GenericSpec) -> int:
    """Return the number of values that are stored for one token in all layers.

    If the model has an encoder, the values of one encoder token are included.
    """
    if isinstance(spec, GenericSpec):
        return 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim
    values = 0
    for mixer in attention_layers(spec):
        if isinstance(mixer, LatentAttention):
            values += mixer.kv_lora_rank + mixer.qk_rope_head_dim
        else:
            values += mixer.num_kv_heads * (mixer.head_dim + value_dim(mixer))
    return values + sum(2 * mixer.num_heads * mixer.head_dim for mixer in cross_layers(spec))


def scales_per_token(spec: ModelSpec | GenericSpec) -> int:
    """Return the number of scales that a cache with one scale per token and head stores for one
    token in all layers.

    If the model has an encoder, the scales of one encoder token are included.
    """
    if isinstance(spec, GenericSpec):
        return 2 * spec.num_layers * spec.num_kv_heads
    scales = sum(
        1 if isinstance(mixer, LatentAttention) else 2 * mixer.num_kv_heads
        for mixer in attention_layers(spec)
    )
    return scales + sum(2 * mixer.num_heads for mixer in cross_layers(spec))


def value_dim(mixer: Attention) -> int:
    """Return the size of a value head."""
    return mixer.head_dim if mixer.v_head_dim is None else mixer.v_head_dim


def recurrent_shapes(mixer: RecurrentMixer) -> tuple[Shape, Shape]:
    """Return the shapes of one sequence's convolution window and recurrent state.

    The shapes are [channels, kernel - 1] and [heads, …, …]. A short convolution has an empty
    recurrent state, and lightning attention has an empty window.
    """
    match mixer:
        case StateSpace(version=1):
            return (mixer.inner_size, mixer.conv_kernel - 1), (
                mixer.inner_size,
                1,
                mixer.state_size,
            )
        case StateSpace():
            channels = mixer.inner_size + 2 * mixer.num_groups * mixer.state_size
            return (channels, mixer.conv_kernel - 1), (
                mixer.num_heads,
                mixer.head_dim,
                mixer.state_size,
            )
        case LinearAttention():
            channels = (
                2 * mixer.num_key_heads * mixer.key_head_dim
                + mixer.num_value_heads * mixer.value_head_dim
            )
            state = (mixer.num_value_heads, mixer.key_head_dim, mixer.value_head_dim)
            return (channels, mixer.conv_kernel - 1), state
        case ShortConvolution():
            return (mixer.channels, mixer.conv_kernel - 1), (0, 0, 0)
        case GatedRecurrence():
            return (mixer.channels, mixer.conv_kernel - 1), (mixer.channels, 1, 1)
        case LightningAttention():
            return (0, 0), (mixer.num_heads, mixer.head_dim, mixer.head_dim)


def state_values(spec: ModelSpec | GenericSpec) -> tuple[int, int]:
    """Return the number of values that are stored for one sequence in all recurrent layers. The
    first number is for values in the compute dtype, the second for values in float32.

    Both numbers are 0 for an unknown architecture. All its layers are counted as attention layers,
    which need more memory.
    """
    if isinstance(spec, GenericSpec):
        return 0, 0
    shapes = [recurrent_shapes(mixer) for mixer in recurrent_layers(spec)]
    return sum(math.prod(window) for window, _ in shapes), sum(
        math.prod(state) for _, state in shapes
    )
