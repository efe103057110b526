"""The float32 operations that several mixers of the numpy reference use."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tgi.architectures.mixers import XIELU_BETA, XIELU_EPSILON
from tgi.architectures.rope import inverse_frequencies
from tgi.architectures.spec import Activation, Norm, Rope
from tgi.backend import Dtype

__all__ = [
    "Array",
    "Rounding",
    "Weights",
    "activation",
    "linear",
    "norm",
    "rotate",
    "rounding_to",
    "sigmoid",
    "softcap",
    "softmax",
    "softplus",
    "xielu",
]

Array = npt.NDArray[np.float32]
Weights = Mapping[str, npt.NDArray[np.float32]]
"""Maps parameter names to arrays. `tgi.architectures.weight_map.tensor_shapes`
returns their shapes.
"""

Rounding: TypeAlias = Callable[[Array], Array]
"""Rounds an array to the values of a dtype. The result is float32."""

_GELU_QUICK_SLOPE = 1.702


def linear(x: Array, weights: Weights, name: str) -> Array:
    """Compute x W' + b, or x W' if the layer has no bias."""
    y: Array = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def norm(x: Array, rule: Norm | None, weights: Weights, name: str) -> Array:
    """Apply RMS norm or layer norm over the last dimension. Returns x if the model has no norm
    here.
    """
    if rule is None:
        return x
    if rule.kind == "layer":
        x = x - x.mean(axis=-1, keepdims=True)
    y: Array = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(rule.eps))
    if rule.weight:
        y = y * (weights[f"{name}.weight"] + np.float32(rule.unit_offset))
    return y + weights[f"{name}.bias"] if rule.bias else y


def rotate(x: Array, rope: Rope) -> Array:
    """Rotate x [T, heads, dim] at positions 0 to T - 1, in a sequence of T tokens."""
    frequencies, factor = inverse_frequencies(rope, len(x))
    angles = np.arange(len(x))[:, None, None] * frequencies
    cos, sin = (np.float32(factor) * f(angles).astype(np.float32) for f in (np.cos, np.sin))
    rotated, rest = x[..., : rope.rotary_dim], x[..., rope.rotary_dim :]
    if rope.interleaved:
        first, second = rotated[..., 0::2], rotated[..., 1::2]
    else:
        first, second = np.split(rotated, 2, axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    joined = (
        np.stack(turned, axis=-1).reshape(rotated.shape)
        if rope.interleaved
        else np.concatenate(turned, axis=-1)
    )
    return np.concatenate([joined, rest], axis=-1)


def activation(x: Array, kind: Activation) -> Array:
    """Apply an activation by its name in `spec`. For `silu_clamped` x must be clamped already.
    `xielu` is a separate function, because it has parameters.
    """
    match kind:
        case "silu":
            return x * sigmoid(x)
        case "gelu":
            error_function: Array = np.vectorize(math.erf, otypes=[np.float32])(
                x / np.float32(math.sqrt(2))
            )
            return np.float32(0.5) * x * (1 + error_function)
        case "gelu_tanh":
            inner: Array = np.tanh(
                np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
            )
            return np.float32(0.5) * x * (1 + inner)
        case "gelu_quick" | "silu_clamped":
            return x * sigmoid(np.float32(_GELU_QUICK_SLOPE) * x)
        case "relu":
            return np.maximum(x, np.float32(0))
        case "relu_squared":
            positive: Array = x.clip(min=0)
            return positive * positive
        case "xielu":
            raise ValueError("xielu has parameters")


def xielu(x: Array, alpha_p: Array, alpha_n: Array) -> Array:
    """Apply xIELU (arXiv 2411.13010) to x [..., n]. `alpha_p` and `alpha_n` [1] are the stored
    values, to which a softplus is applied.
    """
    beta = np.float32(XIELU_BETA)
    above = softplus(alpha_p) * x * x + beta * x
    below = (np.expm1(np.minimum(x, np.float32(XIELU_EPSILON))) - x) * (beta + softplus(alpha_n))
    return np.where(x > 0, above, below + beta * x)


def sigmoid(x: Array) -> Array:
    """Compute the logistic function."""
    half: Array = np.tanh(np.float32(0.5) * x)
    return np.float32(0.5) * (half + 1)


def softmax(scores: Array) -> Array:
    """Compute the softmax over the last axis."""
    exponentials: Array = np.exp(scores - scores.max(axis=-1, keepdims=True))
    total: Array = exponentials.sum(axis=-1, keepdims=True)
    return exponentials / total


def softcap(x: Array, cap: float | None) -> Array:
    """Compute cap * tanh(x / cap). Returns x if there is no cap."""
    return x if cap is None else np.float32(cap) * np.tanh(x / np.float32(cap))


def softplus(x: Array) -> Array:
    """Compute log(1 + e^x)."""
    result: Array = np.logaddexp(np.float32(0), x)
    return result


def rounding_to(dtype: Dtype) -> Rounding:
    """Return the function that rounds to the nearest value of `dtype`, with ties to even."""
    return {"float32": _unchanged, "float16": _to_float16, "bfloat16": _to_bfloat16}[dtype]


def _unchanged(x: Array) -> Array:
    return x


def _to_float16(x: Array) -> Array:
    return x.astype(np.float16).astype(np.float32)


def _to_bfloat16(x: Array) -> Array:
    """Round the lower half of the bits away, because bfloat16 is the upper half of float32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    half = np.uint32(0x7FFF) + ((bits >> 16) & 1)
    rounded: Array = ((bits + half) & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.isfinite(x), rounded, x)
