"""Norms, rotary embeddings, activations, and the write of keys and values to the cache.

The results equal those of the reference operations in `tgi_torch.ops`, including the places where
these round to the dtype of the activations.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tgi_triton.kernels.small_floats import FLOAT, encode

__all__ = [
    "activate",
    "activate_gated",
    "layer_norm",
    "rms_norm",
    "rotate",
    "write_kv",
]

_CLAMP_LIMIT = tl.constexpr(7.0)
_QUICK_GELU_RATE = tl.constexpr(1.702)
_TANH_SCALE = tl.constexpr(0.7978845608028654)  # sqrt(2 / pi)
_SQRT_HALF = tl.constexpr(0.7071067811865476)


@triton.jit
def rms_norm(
    x: tl.tensor,  # [rows, SIZE]
    weight: tl.tensor,  # [SIZE]
    out: tl.tensor,  # [rows, SIZE]
    row_stride: tl.tensor,
    eps: tl.tensor,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    UNIT_OFFSET: tl.constexpr,
) -> None:
    """Divide a row by its root mean square and multiply by the weight. With `UNIT_OFFSET` the
    factor is 1 + weight, and the row is rounded once.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < SIZE
    values = tl.load(x + row * row_stride + columns, mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(values * values, 0) / SIZE
    normal = values * tl.rsqrt(mean + eps)
    factor = tl.load(weight + columns, mask=mask, other=0.0).to(tl.float32)
    if UNIT_OFFSET:
        factor += 1.0
    else:
        normal = normal.to(out.dtype.element_ty).to(tl.float32)
    result = (normal * factor).to(out.dtype.element_ty)
    tl.store(out + row * SIZE + columns, result, mask=mask)


@triton.jit
def layer_norm(
    x: tl.tensor,  # [rows, SIZE]
    weight: tl.tensor,  # [SIZE]
    bias: tl.tensor,  # [SIZE]
    out: tl.tensor,  # [rows, SIZE]
    row_stride: tl.tensor,
    eps: tl.tensor,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
) -> None:
    """Subtract the mean of a row, divide by its standard deviation, and apply weight and bias."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < SIZE
    values = tl.load(x + row * row_stride + columns, mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(values, 0) / SIZE
    centred = tl.where(mask, values - mean, 0.0)
    variance = tl.sum(centred * centred, 0) / SIZE
    result = centred * tl.rsqrt(variance + eps)
    if HAS_WEIGHT:
        result *= tl.load(weight + columns, mask=mask, other=0.0).to(tl.float32)
    if HAS_BIAS:
        result += tl.load(bias + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * SIZE + columns, result.to(out.dtype.element_ty), mask=mask)


@triton.jit
def rotate(
    x: tl.tensor,  # [T, heads, head size], changed in place
    cos: tl.tensor,  # float32 [T, HALF]
    sin: tl.tensor,  # float32 [T, HALF]
    token_stride: tl.tensor,
    head_stride: tl.tensor,
    num_heads: tl.tensor,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    INTERLEAVED: tl.constexpr,
) -> None:
    """Rotate the pairs of values of some heads of one token. A pair is adjacent if `INTERLEAVED`
    is set, otherwise its values are `HALF` apart.
    """
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    pairs = tl.arange(0, BLOCK)
    is_pair = pairs < HALF
    c = tl.load(cos + token * HALF + pairs, mask=is_pair, other=0.0)[None, :]
    s = tl.load(sin + token * HALF + pairs, mask=is_pair, other=0.0)[None, :]
    first = pairs * 2 if INTERLEAVED else pairs
    second = first + 1 if INTERLEAVED else first + HALF
    line = x + token * token_stride + heads[:, None] * head_stride
    mask = (heads < num_heads)[:, None] & is_pair[None, :]
    a = tl.load(line + first[None, :], mask=mask, other=0.0).to(tl.float32)
    b = tl.load(line + second[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(line + first[None, :], (a * c - b * s).to(x.dtype.element_ty), mask=mask)
    tl.store(line + second[None, :], (b * c + a * s).to(x.dtype.element_ty), mask=mask)


@triton.jit
def _at_most(x: tl.tensor, limit: tl.constexpr) -> tl.tensor:
    """Return min(x, limit). NaN remains NaN, unlike in `tl.minimum`."""
    return tl.where(x > limit, limit, x)


@triton.jit
def _sigmoid(x: tl.tensor) -> tl.tensor:
    return 1.0 / (1.0 + tl.exp(-tl.where(x < -80.0, -80.0, x)))  # exp(88.8) would overflow


@triton.jit
def _activated(x: tl.tensor, KIND: tl.constexpr) -> tl.tensor:
    if KIND == "silu":
        result = x * _sigmoid(x)
    elif KIND == "gelu_quick" or KIND == "silu_clamped":
        result = x * _sigmoid(_QUICK_GELU_RATE.value * x)
    elif KIND == "gelu":
        result = 0.5 * x * (1.0 + tl.erf(x * _SQRT_HALF.value))
    elif KIND == "gelu_tanh":
        inner = _TANH_SCALE.value * (x + 0.044715 * x * x * x)
        result = x * _sigmoid(2.0 * inner)  # 0.5 (1 + tanh(y)) = sigmoid(2 y)
    elif KIND == "relu_squared":
        positive = tl.where(x < 0.0, 0.0, x)  # NaN remains NaN, unlike in tl.maximum
        result = positive * positive
    else:
        tl.static_assert(KIND == "relu", "unknown activation function")
        result = tl.where(x < 0.0, 0.0, x)
    return result


@triton.jit
def activate(
    x: tl.tensor, out: tl.tensor, count: tl.tensor, KIND: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    """Apply an activation function to `count` values."""
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = places < count
    values = tl.load(x + places, mask=mask, other=0.0).to(tl.float32)
    if KIND == "silu_clamped":
        values = _at_most(values, _CLAMP_LIMIT)
    tl.store(out + places, _activated(values, KIND).to(out.dtype.element_ty), mask=mask)


@triton.jit
def activate_gated(
    x: tl.tensor,  # [rows, 2 * size]: gate, then up
    out: tl.tensor,  # [rows, size]
    size: tl.tensor,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Store activation(gate) * up. The activated gate is rounded to the dtype of `out` first."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < size
    gate = tl.load(x + row * 2 * size + columns, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * size + size + columns, mask=mask, other=0.0).to(tl.float32)
    if KIND == "silu_clamped":
        gate = _at_most(gate, _CLAMP_LIMIT)
        up = -_at_most(-_at_most(up, _CLAMP_LIMIT), _CLAMP_LIMIT)
        up = (up + 1.0).to(out.dtype.element_ty).to(tl.float32)
    activated = _activated(gate, KIND).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * size + columns, (activated * up).to(out.dtype.element_ty), mask=mask)


@triton.jit
def write_kv(
    source: tl.tensor,  # [T, heads, size], the last axis is contiguous
    target: tl.tensor,  # [slots, heads, size]
    slots: tl.tensor,  # int64 [T]
    token_stride: tl.tensor,
    head_stride: tl.tensor,
    inverse_scale: tl.tensor,
    SIZE: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
    CACHE_KIND: tl.constexpr,
) -> None:
    """Store the keys or the values of one token and one head in the slot of the token."""
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    mask = columns < SIZE
    values = tl.load(
        source + token * token_stride + head * head_stride + columns, mask=mask, other=0.0
    )
    if CACHE_KIND != FLOAT:
        values = encode(values.to(tl.float32) * inverse_scale, CACHE_KIND)
    slot = tl.load(slots + token)
    tl.store(
        target + (slot * NUM_HEADS + head) * SIZE + columns,
        values.to(target.dtype.element_ty),
        mask=mask,
    )
