"""The parts of a layer that need no cache: norms, linear layers, rotary embedding, MLPs.

Shapes: T tokens, H heads, D head size. `weights` are the weights of one layer, by parameter name
without the prefix `{stack}.layers.{i}.`.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from tgi.architectures import MLP, Activation, DynamicScaling, LongRopeScaling, Norm, Rope
from tgi.architectures.mixers import XIELU_BETA, XIELU_EPSILON
from tgi.architectures.rope import inverse_frequencies
from tgi_tpu.weights.quantized import GroupedMatrix, QuantizedMatrix, Weight, matmul

__all__ = [
    "Rotation",
    "Weights",
    "linear",
    "mlp",
    "norm",
    "rotate",
    "rotation",
    "softcap",
    "vector",
]

Weights = Mapping[str, Weight]
Rotation = tuple[jax.Array, jax.Array]
"""Cosines and sines, float32 [T, rotary_dim / 2]."""

_GELU_QUICK_SLOPE = 1.702
_CLAMP_LIMIT = 7.0  # gpt_oss clamps gate and up to this limit before `silu_clamped`


def vector(weights: Weights, parameter: str) -> jax.Array:
    """Return a parameter that is never quantized."""
    weight = weights[parameter]
    assert not isinstance(weight, QuantizedMatrix | GroupedMatrix), parameter
    return weight


def linear(x: jax.Array, weights: Weights, name: str) -> jax.Array:
    """Compute x W' + b, or x W' if the layer has no bias, [T, in] to [T, out]."""
    y = matmul(x, weights[f"{name}.weight"])
    return y + vector(weights, f"{name}.bias").astype(y.dtype) if f"{name}.bias" in weights else y


def norm(x: jax.Array, rule: Norm | None, weights: Weights, name: str) -> jax.Array:
    """Apply RMS norm or layer norm over the last dimension, computed in float32.

    Returns x if the model has no norm here.
    """
    if rule is None:
        return x
    y = x.astype(jnp.float32)
    if rule.kind == "layer":
        y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + rule.eps)
    if rule.weight:
        y = y * (vector(weights, f"{name}.weight").astype(jnp.float32) + float(rule.unit_offset))
    if rule.bias:
        y = y + vector(weights, f"{name}.bias").astype(jnp.float32)
    return y.astype(x.dtype)


def softcap(x: jax.Array, cap: float | None) -> jax.Array:
    """Compute cap * tanh(x / cap). Returns x if there is no cap."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def rotation(rope: Rope, positions: jax.Array, lengths: jax.Array) -> Rotation:
    """Compute the rotation of each token.

    `positions` is int32 [T]. `lengths` int32 [T] is the length of each token's sequence. The
    frequencies of some ropes depend on this length.
    """
    match rope.scaling:
        case DynamicScaling() as scaling:
            frequencies, factor = _dynamic_frequencies(rope, scaling, lengths), jnp.float32(1.0)
        case LongRopeScaling(original_max_positions=limit):
            short, short_factor = inverse_frequencies(rope, limit)
            long, long_factor = inverse_frequencies(rope, limit + 1)
            is_long = (lengths > limit)[:, None]
            frequencies = jnp.where(is_long, np.float32(long), np.float32(short))
            factor = jnp.where(is_long, np.float32(long_factor), np.float32(short_factor))
        case _:
            plain, plain_factor = inverse_frequencies(rope, 1)
            frequencies, factor = jnp.asarray(plain, jnp.float32)[None], jnp.float32(plain_factor)
    angles = positions.astype(jnp.float32)[:, None] * frequencies
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def _dynamic_frequencies(rope: Rope, scaling: DynamicScaling, lengths: jax.Array) -> jax.Array:
    """Return the frequencies of dynamic NTK scaling per token, float32 [T, rotary_dim / 2].

    If a sequence is longer than the original length, the base increases with the sequence's length.
    """
    stretch = (
        jnp.maximum(lengths, scaling.original_max_positions).astype(jnp.float32)
        / scaling.original_max_positions
    )
    growth = scaling.factor * stretch - (scaling.factor - 1)
    exponents = np.arange(0, rope.rotary_dim, 2, dtype=np.float64) / rope.rotary_dim
    plain = np.float32(rope.theta**-exponents)
    return plain * growth[:, None] ** np.float32(
        -exponents * rope.rotary_dim / (rope.rotary_dim - 2)
    )


def rotate(x: jax.Array, rope: Rope, turn: Rotation) -> jax.Array:
    """Rotate the first `rotary_dim` values of each head in x [T, H, D]."""
    cos, sin = (part[:, None, :] for part in turn)
    rotated, rest = x[..., : rope.rotary_dim].astype(jnp.float32), x[..., rope.rotary_dim :]
    if rope.interleaved:
        first, second = rotated[..., 0::2], rotated[..., 1::2]
    else:
        first, second = jnp.split(rotated, 2, axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    joined = (
        jnp.stack(turned, axis=-1).reshape(rotated.shape)
        if rope.interleaved
        else jnp.concatenate(turned, axis=-1)
    )
    return jnp.concatenate([joined.astype(x.dtype), rest], axis=-1)


def _activate(x: jax.Array, kind: Activation) -> jax.Array:
    match kind:
        case "silu":
            return jax.nn.silu(x)
        case "gelu":
            return jax.nn.gelu(x, approximate=False)
        case "gelu_tanh":
            return jax.nn.gelu(x, approximate=True)
        case "gelu_quick" | "silu_clamped":
            return x * jax.nn.sigmoid(_GELU_QUICK_SLOPE * x)
        case "relu":
            return jax.nn.relu(x)
        case "relu_squared":
            return jnp.square(jax.nn.relu(x))
        case "xielu":
            raise ValueError("xielu has parameters")


def _xielu(x: jax.Array, alpha_p: jax.Array, alpha_n: jax.Array) -> jax.Array:
    """Apply xIELU (arXiv 2411.13010) to x [T, n]. A softplus is applied to the two parameters
    [1].
    """
    above = jax.nn.softplus(alpha_p) * x * x + XIELU_BETA * x
    below = jnp.expm1(jnp.minimum(x, XIELU_EPSILON)) - x
    return jnp.where(
        x > 0, above, below * (XIELU_BETA + jax.nn.softplus(alpha_n)) + XIELU_BETA * x
    ).astype(x.dtype)


def mlp(x: jax.Array, rule: MLP, weights: Weights, name: str) -> jax.Array:
    """Apply the feed-forward mixer, [T, hidden] to [T, hidden]."""
    up = linear(x, weights, f"{name}.up")
    if rule.activation == "xielu":
        alphas = (vector(weights, f"{name}.{alpha}") for alpha in ("alpha_p", "alpha_n"))
        return linear(_xielu(up, *alphas), weights, f"{name}.down")
    if not rule.gated:
        return linear(_activate(up, rule.activation), weights, f"{name}.down")
    gate = linear(x, weights, f"{name}.gate")
    if rule.activation == "silu_clamped":
        gate, up = jnp.minimum(gate, _CLAMP_LIMIT), jnp.clip(up, -_CLAMP_LIMIT, _CLAMP_LIMIT) + 1
    return linear(_activate(gate, rule.activation) * up, weights, f"{name}.down")
