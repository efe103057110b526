"""Norms, rotary embeddings, activations and the write to the cache, as entries of the operation
table.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tgi.architectures import Activation
from tgi_torch.attention.kv_cache import LayerCache
from tgi_torch.model.rotary import Rotation
from tgi_triton.kernels import elementwise as kernels
from tgi_triton.kernels.small_floats import FLOAT
from tgi_triton.launch import next_power_of_two

__all__ = [
    "activation",
    "gated_activation",
    "layer_norm",
    "rms_norm",
    "rms_norm_unit_offset",
    "rotary",
    "write_kv",
]

_BLOCK = 1024  # values of one program in elementwise operations
_HEADS = 8  # heads of one program in the rotation
_WIDE_ROW = 2048  # from this size on, a row is divided among more threads


def _num_warps(size: int) -> int:
    return 4 if size < _WIDE_ROW else 8


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise x [..., n] in float32, round, then multiply by weight [n]."""
    return _rms_norm(x, weight, eps, unit_offset=False)


def rms_norm_unit_offset(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise x [..., n] and multiply by 1 + weight [n] in float32, then round."""
    return _rms_norm(x, weight, eps, unit_offset=True)


def _rms_norm(x: Tensor, weight: Tensor, eps: float, *, unit_offset: bool) -> Tensor:
    size = x.shape[-1]
    rows = _rows(x)
    out = x.new_empty(x.shape)
    if rows.shape[0]:
        kernels.rms_norm[(rows.shape[0],)](
            rows,
            weight,
            out,
            rows.stride(0),
            eps,
            SIZE=size,
            BLOCK=next_power_of_two(size),
            UNIT_OFFSET=unit_offset,
            num_warps=_num_warps(size),
        )
    return out


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Normalise x [..., n] over the last axis, with weight [n] and bias [n]."""
    size = x.shape[-1]
    rows = _rows(x)
    out = x.new_empty(x.shape)
    if rows.shape[0]:
        kernels.layer_norm[(rows.shape[0],)](
            rows,
            out if weight is None else weight,
            out if bias is None else bias,
            out,
            rows.stride(0),
            eps,
            SIZE=size,
            BLOCK=next_power_of_two(size),
            HAS_WEIGHT=weight is not None,
            HAS_BIAS=bias is not None,
            num_warps=_num_warps(size),
        )
    return out


def rotary(x: Tensor, rotation: Rotation, interleaved: bool) -> None:
    """Rotate pairs of values of x [T, H, D] in float32, in place."""
    num_tokens, num_heads, _ = x.shape
    half = rotation.cos.shape[-1]
    if not num_tokens:
        return
    kernels.rotate[(num_tokens, -(-num_heads // _HEADS))](
        x,
        rotation.cos.contiguous(),
        rotation.sin.contiguous(),
        x.stride(0),
        x.stride(1),
        num_heads,
        HALF=half,
        BLOCK=next_power_of_two(half),
        BLOCK_HEADS=_HEADS,
        INTERLEAVED=interleaved,
        num_warps=4,
    )


def activation(x: Tensor, kind: Activation) -> Tensor:
    """Apply the activation function named `kind`."""
    values = x.contiguous()
    out = torch.empty_like(values)
    if count := values.numel():
        grid = (-(-count // _BLOCK),)
        kernels.activate[grid](values, out, count, KIND=kind, BLOCK=_BLOCK, num_warps=4)
    return out


def gated_activation(x: Tensor, kind: Activation) -> Tensor:
    """Return activation(gate) * up, [..., n], for x [..., 2 n]."""
    size = x.shape[-1] // 2
    rows = _rows(x).contiguous()
    out = x.new_empty(*x.shape[:-1], size)
    if rows.shape[0]:
        kernels.activate_gated[(rows.shape[0], -(-size // _BLOCK))](
            rows, out, size, KIND=kind, BLOCK=_BLOCK, num_warps=4
        )
    return out


def write_kv(key: Tensor, value: Tensor, cache: LayerCache, slot_mapping: Tensor) -> None:
    """Store keys [T, K, D] and values [T, K, Dv] in their slots. Values that are a part of the keys
    (latent attention) are stored once.
    """
    _write(key, cache.key, slot_mapping)
    if not cache.shares_values:
        _write(value, cache.value, slot_mapping)


def _write(source: Tensor, target: Tensor, slots: Tensor) -> None:
    num_tokens, num_heads, size = source.shape
    if source.stride(-1) != 1:
        source = source.contiguous()
    if num_tokens:
        kernels.write_kv[(num_tokens, num_heads)](
            source,
            target,
            slots,
            source.stride(0),
            source.stride(1),
            1.0,
            SIZE=size,
            NUM_HEADS=num_heads,
            BLOCK=next_power_of_two(size),
            CACHE_KIND=FLOAT.value,
            num_warps=1,
        )


def _rows(x: Tensor) -> Tensor:
    """Return x [..., n] as [rows, n] with contiguous values in each row, as a view if possible."""
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    return rows if rows.stride(-1) == 1 else rows.contiguous()
