"""The recurrent, latent and cross-attention mixers of the numpy reference. A mixer is the sublayer
of a residual block.
"""

from __future__ import annotations

import numpy as np

from tgi.architectures.spec import (
    CrossAttention,
    GatedRecurrence,
    LatentAttention,
    LightningAttention,
    LinearAttention,
    ShortConvolution,
    StateSpace,
)
from tgi.testing.reference.operations import (
    Array,
    Weights,
    activation,
    linear,
    norm,
    rotate,
    sigmoid,
    softmax,
    softplus,
)

__all__ = [
    "cross_attention",
    "gated_recurrence",
    "latent_attention",
    "lightning_attention",
    "linear_attention",
    "short_convolution",
    "state_space",
]

_LENGTH_EPS = np.float32(1e-6)


def latent_attention(y: Array, rule: LatentAttention, weights: Weights, name: str) -> Array:
    """Multi-head latent attention, [T, hidden] → [T, hidden].

    The keys and values of every head are computed explicitly.
    """
    num_tokens, heads, nope_dim = len(y), rule.num_heads, rule.qk_nope_head_dim
    assert num_tokens <= (rule.index_top_k or num_tokens), "the index of keys is not implemented"
    if rule.q_lora_rank is None:
        q = linear(y, weights, f"{name}.q")
    else:
        q = linear(
            norm(linear(y, weights, f"{name}.q_a"), rule.norm, weights, f"{name}.q_a_norm"),
            weights,
            f"{name}.q_b",
        )
    q = q.reshape(num_tokens, heads, -1)
    down = linear(y, weights, f"{name}.kv_a")
    latent = norm(down[:, : rule.kv_lora_rank], rule.norm, weights, f"{name}.kv_a_norm")
    up = linear(latent, weights, f"{name}.kv_b").reshape(num_tokens, heads, -1)
    k_nope, v = up[..., :nope_dim], up[..., nope_dim:]
    k_rotated = rotate(down[:, None, rule.kv_lora_rank :], rule.rope).repeat(heads, axis=1)
    q = np.concatenate([q[..., :nope_dim], rotate(q[..., nope_dim:], rule.rope)], axis=-1)
    k = np.concatenate([k_nope, k_rotated], axis=-1)
    scores = np.einsum("qhd,khd->hqk", q, k) * np.float32(rule.scale)
    ahead = np.arange(num_tokens)[None, :] > np.arange(num_tokens)[:, None]
    probabilities = softmax(np.where(ahead, np.float32(-np.inf), scores))
    mixed = np.einsum("hqk,khd->qhd", probabilities, v)
    return linear(mixed.reshape(num_tokens, -1), weights, f"{name}.o")


def cross_attention(
    y: Array, encoded: Array, rule: CrossAttention, weights: Weights, name: str
) -> Array:
    """Attention from [T, hidden] to the encoder's output [E, hidden]."""
    q = linear(y, weights, f"{name}.q").reshape(len(y), rule.num_heads, -1)
    k, v = (
        linear(encoded, weights, f"{name}.{part}").reshape(len(encoded), rule.num_heads, -1)
        for part in "kv"
    )
    probabilities = softmax(np.einsum("qhd,khd->hqk", q, k) * np.float32(rule.scale))
    return linear(
        np.einsum("hqk,khd->qhd", probabilities, v).reshape(len(y), -1), weights, f"{name}.o"
    )


def state_space(y: Array, rule: StateSpace, weights: Weights, name: str) -> Array:
    """Run a Mamba mixer of version 1 or 2 token by token, [T, hidden] → [T, hidden]."""
    gate = linear(y, weights, f"{name}.in_gate")
    x = _convolve(linear(y, weights, f"{name}.in_x"), weights, f"{name}.conv_x")
    if rule.version == 1:
        ends = [rule.dt_rank, rule.dt_rank + rule.state_size]
        parts = zip(
            ("dt", "b", "c"),
            np.split(linear(x, weights, f"{name}.x_proj"), ends, axis=-1),
            strict=True,
        )
        dt, b, c = (
            norm(part, rule.inner_norms, weights, f"{name}.{kind}_norm") for kind, part in parts
        )
        dt = softplus(linear(dt, weights, f"{name}.dt"))
        out = (
            _scan(x[..., None], dt, b[:, None], c[:, None], weights[f"{name}.a_log"])[..., 0]
            + x * weights[f"{name}.skip"]
        )
        return linear(out * _silu(gate), weights, f"{name}.out")
    b, c = (
        _convolve(linear(y, weights, f"{name}.in_{part}"), weights, f"{name}.conv_{part}")
        for part in "bc"
    )
    dt = softplus(linear(y, weights, f"{name}.in_dt") + weights[f"{name}.dt_bias"])
    if rule.dt_limit is not None:
        dt = dt.clip(*rule.dt_limit)
    heads = x.reshape(len(y), rule.num_heads, rule.head_dim)
    b, c = (part.reshape(len(y), rule.num_groups, rule.state_size) for part in (b, c))
    out = (
        _scan(heads, dt, b, c, weights[f"{name}.a_log"][:, None])
        + heads * weights[f"{name}.skip"][:, None]
    )
    out = _gated_norm(out.reshape(len(y), -1), gate, rule, weights, name)
    return linear(out, weights, f"{name}.out")


def linear_attention(y: Array, rule: LinearAttention, weights: Weights, name: str) -> Array:
    """Apply the gated delta rule (arXiv 2412.06464) token by token, [T, hidden] → [T, hidden]."""
    num_tokens, heads_of_key = len(y), rule.num_value_heads // rule.num_key_heads
    q, k, v = (
        _convolve(linear(y, weights, f"{name}.{part}"), weights, f"{name}.conv_{part}")
        for part in "qkv"
    )
    q, k = (
        _unit(part.reshape(num_tokens, rule.num_key_heads, -1)).repeat(heads_of_key, axis=1)
        for part in (q, k)
    )
    q = q / np.float32(np.sqrt(rule.key_head_dim))
    v = v.reshape(num_tokens, rule.num_value_heads, -1)
    rate = softplus(linear(y, weights, f"{name}.decay") + weights[f"{name}.dt_bias"])
    kept = np.exp(-np.exp(weights[f"{name}.a_log"]) * rate)
    share = sigmoid(linear(y, weights, f"{name}.beta"))
    state = np.zeros((rule.num_value_heads, rule.key_head_dim, rule.value_head_dim), np.float32)
    out = np.empty_like(v)
    for token in range(num_tokens):
        state = state * kept[token][:, None, None]
        known = np.einsum("hkv,hk->hv", state, k[token])
        state = state + np.einsum(
            "hk,hv->hkv", k[token], (v[token] - known) * share[token][:, None]
        )
        out[token] = np.einsum("hkv,hk->hv", state, q[token])
    gate = linear(y, weights, f"{name}.gate").reshape(out.shape)
    out = norm(out, rule.norm, weights, f"{name}.gated_norm") * _silu(gate)
    return linear(out.reshape(num_tokens, -1), weights, f"{name}.out")


def lightning_attention(y: Array, rule: LightningAttention, weights: Weights, name: str) -> Array:
    """Run linear attention with constant decays token by token, [T, hidden] → [T, hidden]."""
    q, k, v = (
        activation(linear(y, weights, f"{name}.{part}"), rule.activation).reshape(
            len(y), rule.num_heads, -1
        )
        for part in "qkv"
    )
    kept = np.exp(-np.asarray(rule.rates, np.float32))[:, None, None]
    state = np.zeros((rule.num_heads, rule.head_dim, rule.head_dim), np.float32)
    out = np.empty_like(v)
    for token in range(len(y)):
        state = kept * state + k[token][:, :, None] * v[token][:, None, :]
        out[token] = np.einsum("hk,hkv->hv", q[token], state)
    normed = norm(out.reshape(len(y), -1), rule.norm, weights, f"{name}.output_norm")
    gate = sigmoid(linear(y, weights, f"{name}.gate"))
    return linear(gate * normed, weights, f"{name}.out")


def short_convolution(y: Array, rule: ShortConvolution, weights: Weights, name: str) -> Array:
    """Apply a gated convolution to each channel, [T, hidden] → [T, hidden]."""
    before, after, x = (
        linear(y, weights, f"{name}.{part}") for part in ("in_gate", "gate", "in_x")
    )
    assert weights[f"{name}.conv_x.weight"].shape == (rule.channels, 1, rule.conv_kernel)
    return linear(after * _sums(before * x, weights, f"{name}.conv_x"), weights, f"{name}.out")


def gated_recurrence(y: Array, rule: GatedRecurrence, weights: Weights, name: str) -> Array:
    """Run the RG-LRU (arXiv 2402.19427, section 2.4) token by token, [T, hidden] → [T, hidden]."""
    gate = activation(linear(y, weights, f"{name}.in_gate"), rule.activation)
    x = _sums(linear(y, weights, f"{name}.in_x"), weights, f"{name}.conv_x")
    blocks = x.reshape(len(y), rule.num_blocks, -1)
    input_gate, recurrent_gate = (
        sigmoid(
            np.einsum("tbi,bio->tbo", blocks, weights[f"{name}.{part}.weight"])
            + weights[f"{name}.{part}.bias"]
        ).reshape(x.shape)
        for part in ("input_gate", "recurrent_gate")
    )
    log_kept = np.float32(-8) * recurrent_gate * softplus(weights[f"{name}.rate"])
    share = np.sqrt(-np.expm1(2 * log_kept))
    share[0] = 1
    state, out = np.zeros(rule.channels, np.float32), np.empty_like(x)
    for token in range(len(y)):
        state = np.exp(log_kept[token]) * state + share[token] * input_gate[token] * x[token]
        out[token] = state
    return linear(out * gate, weights, f"{name}.out")


def _unit(x: Array) -> Array:
    result: Array = x / np.sqrt(np.square(x).sum(axis=-1, keepdims=True) + _LENGTH_EPS)
    return result


def _convolve(x: Array, weights: Weights, name: str) -> Array:
    """Convolve each channel over its last inputs and apply silu, [T, C] → [T, C]."""
    return _silu(_sums(x, weights, name))


def _sums(x: Array, weights: Weights, name: str) -> Array:
    """Compute the weighted sum of the last inputs of each channel, [T, C] → [T, C].

    Inputs before the first token are zero.
    """
    kernel = weights[f"{name}.weight"][:, 0]  # [C, K], the newest input last
    size = kernel.shape[1]
    padded = np.concatenate([np.zeros((size - 1, x.shape[1]), np.float32), x])
    summed = np.stack(
        [(padded[token : token + size].T * kernel).sum(axis=1) for token in range(len(x))]
    )
    return summed + weights[f"{name}.bias"] if f"{name}.bias" in weights else summed


def _scan(x: Array, dt: Array, b: Array, c: Array, a_log: Array) -> Array:
    """Run the recurrence: x [T, H, P], dt [T, H], b and c [T, G, N], a_log [H, N or 1] → [T, H,
    P].
    """
    heads_of_group = x.shape[1] // b.shape[1]
    state = np.zeros((*x.shape[1:], b.shape[2]), np.float32)
    out = np.empty_like(x)
    for token in range(len(x)):
        b_heads, c_heads = (part[token].repeat(heads_of_group, axis=0) for part in (b, c))  # [H, N]
        kept = np.exp(-np.exp(a_log) * dt[token][:, None])
        state = (
            kept[:, None] * state + (dt[token][:, None] * x[token])[..., None] * b_heads[:, None]
        )
        out[token] = (state * c_heads[:, None]).sum(axis=-1)
    return out


def _gated_norm(out: Array, gate: Array, rule: StateSpace, weights: Weights, name: str) -> Array:
    """Apply the norm to each group of `out`, before or after the gate."""
    if rule.norm is None:
        return out * _silu(gate)
    if not rule.norm_before_gate:
        out = out * _silu(gate)
    groups = out.reshape(len(out), rule.num_groups, -1)
    mean_square = np.square(groups).mean(axis=-1, keepdims=True)
    normed: Array = (groups / np.sqrt(mean_square + np.float32(rule.norm.eps))).reshape(
        out.shape
    ) * weights[f"{name}.gated_norm.weight"]
    return normed * _silu(gate) if rule.norm_before_gate else normed


def _silu(x: Array) -> Array:
    return x * sigmoid(x)
