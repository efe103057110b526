"""Every operation of the decoder by name, each with a reference in plain PyTorch.

The decoder calls operations through a table. A backend that does one better passes its own:
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
    """The operations. An implementation may write into a tensor it is given only where that is
    said.
    """

    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """(x [..., in], weight [out, in], bias [out]) -> [..., out]"""

    embedding: Callable[[Tensor, Tensor], Tensor]
    """(ids int64 [T], table [rows, size]) -> [T, size]"""

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    """(x [..., n], weight [n], eps) -> like x; the mean is taken in float32"""

    rms_norm_unit_offset: Callable[[Tensor, Tensor, float], Tensor]
    """The same with 1 + weight."""

    layer_norm: Callable[[Tensor, Tensor | None, Tensor | None, float], Tensor]
    """(x [..., n], weight [n], bias [n], eps) -> like x"""

    rotary: Callable[[Tensor, Rotation, bool], None]
    """(x [T, H, D], rotation, interleaved): rotates the first rotary_dim of each head of x in
    place
    """

    activation: Callable[[Tensor, Activation], Tensor]
    """(x, kind) -> like x"""

    gated_activation: Callable[[Tensor, Activation], Tensor]
    """(gate and up side by side [..., 2 n], kind) -> activation(gate) * up [..., n]"""

    write_kv: Callable[[Tensor, Tensor, LayerCache, Tensor], None]
    """(key [T, K, D], value [T, K, Dv], cache, slot_mapping int64 [T]): writes into the cache"""

    plan_attention: Callable[[AttentionMetadata, int, int | None], Any]
    """(metadata, block_size, window) -> whatever `paged_attention` wants to know; once per step and
    window
    """

    paged_attention: Callable[[Tensor, LayerCache, Any, AttentionSettings], Tensor]
    """(query [T, H, D], cache, plan, settings) -> [T, H * Dv]; this step's keys and values are in
    the cache already
    """

    plan_cross_attention: Callable[[AttentionMetadata, int], Any]
    """(metadata, block_size) -> the plan of `paged_attention` over the encoder's tokens; once per
    step
    """

    plan_states: Callable[[AttentionMetadata], Any]
    """metadata -> whatever the two operations below want to know; once per step"""

    causal_convolution: Callable[[Tensor, Tensor, Tensor | None, Tensor, Any], Tensor]
    """(x [T, C], weight [C, kernel], bias [C], window [S, C, kernel - 1], plan) -> [T, C]; moves
    the rows' windows on
    """

    selective_scan: Callable[[ScanInputs, Tensor, Any], Tensor]
    """(inputs, states [S, H, P, N], plan) -> float32 [T, H, P]; moves the rows' states on"""

    gated_delta_scan: Callable[[DeltaInputs, Tensor, Any], Tensor]
    """(inputs, states [S, H, K, V], plan) -> float32 [T, H, V]; moves the rows' states on"""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x W' + b."""
    return functional.linear(x, weight, bias)


def embedding(ids: Tensor, table: Tensor) -> Tensor:
    """Rows of `table`."""
    return table.index_select(0, ids)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalised in float32, rounded to x's dtype, then weighted (as Llama does)."""
    return weight * _divided_by_rms(x, eps).to(x.dtype)


def rms_norm_unit_offset(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalised and weighted in float32, then rounded (as Gemma does)."""
    return (_divided_by_rms(x, eps) * (1.0 + weight.float())).to(x.dtype)


def _divided_by_rms(x: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Layer normalisation over the last dimension."""
    return functional.layer_norm(x, x.shape[-1:], weight, bias, eps)


def rotary(x: Tensor, rotation: Rotation, interleaved: bool) -> None:
    """Rotate pairs (neighbours if `interleaved`, else one from each half) in float32, in place."""
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
    """The activation named `kind`."""
    return _ACTIVATIONS[kind](x)


def gated_activation(x: Tensor, kind: Activation) -> Tensor:
    """activation(gate) * up; the clamped kind also clamps `up` and adds one to it (gpt_oss)."""
    gate, up = x.chunk(2, dim=-1)
    if kind == "silu_clamped":
        up = up.clamp(-_CLAMP_LIMIT, _CLAMP_LIMIT) + 1.0
    return _ACTIVATIONS[kind](gate) * up


def write_kv(key: Tensor, value: Tensor, cache: LayerCache, slot_mapping: Tensor) -> None:
    """Store this step's keys and values at their slots."""
    cache.key.flatten(0, 1).index_copy_(0, slot_mapping, key.to(cache.key.dtype))
    cache.value.flatten(0, 1).index_copy_(0, slot_mapping, value.to(cache.value.dtype))


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
"""Plain PyTorch, right on every device."""
