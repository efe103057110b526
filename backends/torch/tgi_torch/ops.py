"""The operations of the decoder, each with a reference implementation in plain PyTorch.

The decoder calls operations through a table. A backend replaces entries with its own functions:
`dataclasses.replace(REFERENCE, rms_norm=my_rms_norm)`.
Shapes: T tokens, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from tgi.architectures import Activation
from tgi_torch.attention.key_range import KeyRange
from tgi_torch.attention.kv_cache import LayerCache
from tgi_torch.attention.paged import (
    AttentionMetadata,
    AttentionSettings,
    paged_attention,
    plan_attention,
    plan_cross_attention,
)
from tgi_torch.model.recurrence import (
    DeltaInputs,
    ScanInputs,
    causal_convolution,
    gated_delta_scan,
    plan_states,
    selective_scan,
)
from tgi_torch.model.rotary import Rotation

__all__ = [
    "REFERENCE",
    "Ops",
    "activation",
    "embedding",
    "gated_activation",
    "layer_norm",
    "linear",
    "rms_norm",
    "rms_norm_unit_offset",
    "rotary",
    "write_kv",
]

_CLAMP_LIMIT = 7.0
_QUICK_GELU_RATE = 1.702


@final
@dataclass(frozen=True)
class Ops:
    """The table of operations.

    An operation may write to its arguments only if its description in this class says so.
    """

    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """Returns x W' + b, [..., out], for x [..., in], weight [out, in] and bias [out]."""

    embedding: Callable[[Tensor, Tensor], Tensor]
    """Returns the rows [T, size] with the indices int64 [T] in a table [rows, size]."""

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    """Normalises x [..., n] with weight [n] and eps. The mean is computed in float32."""

    rms_norm_unit_offset: Callable[[Tensor, Tensor, float], Tensor]
    """Normalises as `rms_norm` does, but multiplies by 1 + weight instead of weight."""

    layer_norm: Callable[[Tensor, Tensor | None, Tensor | None, float], Tensor]
    """Normalises x [..., n] with weight [n], bias [n] and eps."""

    rotary: Callable[[Tensor, Rotation, bool], None]
    """Rotates the first `rotary_dim` values of each head of x [T, H, D] in place. The other
    arguments are the rotation and `interleaved`.
    """

    activation: Callable[[Tensor, Activation], Tensor]
    """Applies the activation function with the given name to x."""

    gated_activation: Callable[[Tensor, Activation], Tensor]
    """Returns activation(gate) * up, [..., n], for the concatenation of gate and up, [..., 2 n],
    and the name of the activation function.
    """

    write_kv: Callable[[Tensor, Tensor, LayerCache, Tensor], None]
    """Writes key [T, K, D] and value [T, K, Dv] to a cache, at the given slots int64 [T]."""

    plan_attention: Callable[[AttentionMetadata, int, KeyRange], Any]
    """Returns the plan of `paged_attention` for the metadata, the block size and the key range. The
    decoder calls this operation once per step and key range.
    """

    paged_attention: Callable[[Tensor, LayerCache, Any, AttentionSettings], Tensor]
    """Returns the attention [T, H * Dv] of query [T, H, D] over a cache, for a plan and the
    settings of the layer. The cache must contain the keys and values of this step.
    """

    plan_cross_attention: Callable[[AttentionMetadata, int], Any]
    """Returns the plan of `paged_attention` over the encoder's tokens, for the metadata and the
    block size. The decoder calls this operation once per step.
    """

    plan_states: Callable[[AttentionMetadata], Any]
    """Returns the plan of the three operations below for the metadata. The decoder calls this
    operation once per step.
    """

    causal_convolution: Callable[[Tensor, Tensor, Tensor | None, Tensor, Any], Tensor]
    """Returns the convolution [T, C] of x [T, C] with weight [C, kernel] and bias [C], for a plan.
    Updates the rows' entries in the windows [S, C, kernel - 1].
    """

    selective_scan: Callable[[ScanInputs, Tensor, Any], Tensor]
    """Returns the outputs of Mamba's recurrence, float32 [T, H, P], for the inputs and a plan.
    Updates the rows' states in [S, H, P, N].
    """

    gated_delta_scan: Callable[[DeltaInputs, Tensor, Any], Tensor]
    """Returns the outputs of the gated delta rule, float32 [T, H, V], for the inputs and a plan.
    Updates the rows' states in [S, H, K, V].
    """


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x W' + b."""
    return functional.linear(x, weight, bias)


def embedding(ids: Tensor, table: Tensor) -> Tensor:
    """Look up the rows `ids` of `table`."""
    return table.index_select(0, ids)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise in float32, round to x's dtype, then multiply by the weight (as Llama does)."""
    return weight * _divided_by_rms(x, eps).to(x.dtype)


def rms_norm_unit_offset(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise and multiply by the weight in float32, then round (as Gemma does)."""
    return (_divided_by_rms(x, eps) * (1.0 + weight.float())).to(x.dtype)


def _divided_by_rms(x: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Normalise over the last dimension."""
    return functional.layer_norm(x, x.shape[-1:], weight, bias, eps)


def rotary(x: Tensor, rotation: Rotation, interleaved: bool) -> None:
    """Rotate pairs of values in float32, in place.

    If `interleaved` is set, a pair consists of adjacent values. Otherwise a pair has one value from
    each half.
    """
    cos, sin = rotation
    half = cos.shape[-1]
    if interleaved:
        first, second = x[..., 0 : 2 * half : 2], x[..., 1 : 2 * half : 2]
    else:
        first, second = x[..., :half], x[..., half : 2 * half]
    turned_first = first * cos - second * sin
    turned_second = second * cos + first * sin
    first.copy_(turned_first)
    second.copy_(turned_second)


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(_QUICK_GELU_RATE * x)


_ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "silu": functional.silu,
        "gelu": functional.gelu,
        "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "gelu_quick": _quick_gelu,
        "relu": functional.relu,
        "relu_squared": lambda x: functional.relu(x).square(),
        "silu_clamped": lambda x: _quick_gelu(x.clamp(max=_CLAMP_LIMIT)),
    }
)


def activation(x: Tensor, kind: Activation) -> Tensor:
    """Apply the activation function named `kind`."""
    return _ACTIVATIONS[kind](x)


def gated_activation(x: Tensor, kind: Activation) -> Tensor:
    """Return activation(gate) * up. For `silu_clamped`, `up` is also clamped and increased by 1, as
    in gpt_oss.
    """
    gate, up = x.chunk(2, dim=-1)
    if kind == "silu_clamped":
        up = up.clamp(-_CLAMP_LIMIT, _CLAMP_LIMIT) + 1.0
    return _ACTIVATIONS[kind](gate) * up


def write_kv(key: Tensor, value: Tensor, cache: LayerCache, slot_mapping: Tensor) -> None:
    """Store the keys and values of this step in their slots."""
    cache.write(key, value, slot_mapping)


REFERENCE = Ops(
    linear=linear,
    embedding=embedding,
    rms_norm=rms_norm,
    rms_norm_unit_offset=rms_norm_unit_offset,
    layer_norm=layer_norm,
    rotary=rotary,
    activation=activation,
    gated_activation=gated_activation,
    write_kv=write_kv,
    plan_attention=plan_attention,
    paged_attention=paged_attention,
    plan_cross_attention=plan_cross_attention,
    plan_states=plan_states,
    causal_convolution=causal_convolution,
    selective_scan=selective_scan,
    gated_delta_scan=gated_delta_scan,
)
"""Plain PyTorch, which is correct on every device."""
