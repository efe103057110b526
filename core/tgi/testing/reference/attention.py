"""Self-attention of the numpy reference over a whole sequence."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tgi.architectures.spec import Attention, Norm, PositionScale, RelativeBias
from tgi.testing.reference.operations import (
    Array,
    Weights,
    linear,
    norm,
    rotate,
    sigmoid,
    softcap,
    softmax,
)

__all__ = ["Caches", "alibi_slopes", "attention"]

Caches = dict[int, tuple[Array, Array]]
"""The keys [T, kv heads, dim] and the values of each layer."""


def attention(y: Array, rule: Attention, weights: Weights, name: str, caches: Caches) -> Array:
    """Self-attention over a whole sequence: [T, hidden] → [T, hidden].

    `caches` contains the keys and values of the layers so far. The function adds its own.
    """
    num_tokens, heads, kv_heads = len(y), rule.num_heads, rule.num_kv_heads
    if rule.cache_of_layer is None:
        q, k, v = _heads(y, rule, weights, name)
        caches[int(name.split(".")[2])] = k, v
    else:
        q = _queries(y, rule, weights, name)
        k, v = caches[rule.cache_of_layer]
    k, v = (item.repeat(heads // kv_heads, axis=1) for item in (k, v))
    scores = softcap(q.swapaxes(0, 1) @ np.moveaxis(k, 0, 2) * np.float32(rule.scale), rule.softcap)
    scores = scores + _position_bias(rule, num_tokens, weights, name)
    distance = np.arange(num_tokens)[:, None] - np.arange(num_tokens)[None, :]
    hidden = (distance < 0) if rule.causal else np.zeros_like(distance, dtype=bool)
    if rule.window is not None:
        hidden = hidden | (distance >= rule.window)
    if rule.chunk is not None:
        chunks = np.arange(num_tokens) // rule.chunk
        hidden = hidden | (chunks[:, None] != chunks[None, :])
    scores = np.where(hidden, np.float32(-np.inf), scores)
    if rule.sinks:
        sinks = np.broadcast_to(weights[f"{name}.sinks"][:, None, None], (heads, num_tokens, 1))
        probabilities = softmax(np.concatenate([scores, sinks], axis=-1))[..., :-1]
    else:
        probabilities = softmax(scores)
    mixed = (probabilities @ v.swapaxes(0, 1)).swapaxes(0, 1)
    mixed = mixed.reshape(num_tokens, -1)
    if rule.output_gate:
        gate = sigmoid(linear(y, weights, f"{name}.gate"))
        if rule.output_gate_over == "head":
            gate = gate.repeat(mixed.shape[1] // heads, axis=1)
        mixed = mixed * gate
    return linear(mixed, weights, f"{name}.o")


def _heads(y: Array, rule: Attention, weights: Weights, name: str) -> tuple[Array, Array, Array]:
    """Compute queries [T, heads, dim], keys and values [T, kv heads, dim], with norms and rotary
    embedding applied.
    """
    q = _queries(y, rule, weights, name)
    k = _rotated(y, rule, rule.num_kv_heads, rule.k_norm, weights, f"{name}.k")
    v = linear(y, weights, f"{name}.v").reshape(len(y), rule.num_kv_heads, -1)
    if rule.clip_qkv is not None:
        v = v.clip(-rule.clip_qkv, rule.clip_qkv)
    return q, k, norm(v, rule.v_norm, weights, f"{name}.v_norm")


def _queries(y: Array, rule: Attention, weights: Weights, name: str) -> Array:
    q = _rotated(y, rule, rule.num_heads, rule.q_norm, weights, f"{name}.q")
    if rule.position_scale is not None:
        q = q * _query_scales(rule.position_scale, len(y))[:, None, None]
    return q


def _rotated(  # noqa: PLR0917 - the norm is one of the rule's two norms
    y: Array, rule: Attention, num_heads: int, own_norm: Norm | None, weights: Weights, name: str
) -> Array:
    """Compute the heads [T, num_heads, dim] of the projection `name`, with norm, clipping and
    rotary embedding applied.
    """
    heads = linear(y, weights, name)
    if rule.qk_norm_over == "all":
        heads = norm(heads, own_norm, weights, f"{name}_norm")
    heads = heads.reshape(len(y), num_heads, -1)
    # A weight [heads, dim] applies to each head separately.
    is_over_heads = rule.qk_norm_over != "all"
    if is_over_heads and not rule.qk_norm_after_rope:
        heads = norm(heads, own_norm, weights, f"{name}_norm")
    if rule.clip_qkv is not None:
        heads = heads.clip(-rule.clip_qkv, rule.clip_qkv)
    if rule.rope is not None:
        heads = rotate(heads, rule.rope)
    if is_over_heads and rule.qk_norm_after_rope:
        heads = norm(heads, own_norm, weights, f"{name}_norm")
    return heads


def _query_scales(rule: PositionScale, num_tokens: int) -> Array:
    """Return the factor of the query at each position, float32 [T]."""
    turns = (np.arange(num_tokens) + rule.offset) // rule.period
    return (1 + rule.beta * np.log1p(turns)).astype(np.float32)


def _position_bias(rule: Attention, num_tokens: int, weights: Weights, name: str) -> Array:
    """Return the position bias that is added to the attention scores, [heads or 1, T, T]."""
    keys, queries = np.arange(num_tokens)[None, :], np.arange(num_tokens)[:, None]
    if rule.alibi:
        slopes = alibi_slopes(rule.num_heads, rule.alibi_bias_max) * np.float32(rule.alibi_scale)
        return slopes[:, None, None] * (keys - queries).astype(np.float32)
    if rule.relative_bias is not None:
        layers = name.split(".")
        owner = ".".join([*layers[:2], "0", *layers[3:]]) if rule.relative_bias.shared else name
        table = weights[f"{owner}.relative_bias.weight"]
        return np.moveaxis(table[_buckets(keys - queries, rule.relative_bias)], -1, 0)
    return np.zeros((1, num_tokens, num_tokens), dtype=np.float32)


def alibi_slopes(num_heads: int, bias_max: float = 8.0) -> Array:
    """Slopes of ALiBi (arXiv 2108.12409), float32 [num_heads].

    Let n be the greatest power of two that is at most `num_heads`. The slopes of the first n heads
    form a geometric series. The other heads have every second slope of the series for 2 n heads.
    """
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-bias_max * (head + 1) / power) for head in range(power)]
    slopes += [2.0 ** (-bias_max / 2 * (2 * head + 1) / power) for head in range(num_heads - power)]
    return np.asarray(slopes, dtype=np.float32)


def _buckets(distance: npt.NDArray[np.int64], rule: RelativeBias) -> npt.NDArray[np.int64]:
    """The distance buckets of T5 (arXiv 1910.10683).

    Each small distance has its own bucket. The other buckets have equal sizes on a logarithmic
    scale, up to `max_distance`.
    """
    count = rule.num_buckets // 2 if rule.bidirectional else rule.num_buckets
    ahead = np.where(distance > 0, count, 0) if rule.bidirectional else np.zeros_like(distance)
    distance = np.abs(distance) if rule.bidirectional else np.maximum(-distance, 0)
    exact = count // 2
    steps = (
        np.log(np.maximum(distance, 1) / exact)
        / math.log(rule.max_distance / exact)
        * (count - exact)
    )
    far = np.minimum(exact + steps.astype(np.int64), count - 1)
    return ahead + np.where(distance < exact, distance, far)
