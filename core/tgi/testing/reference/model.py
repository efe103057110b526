"""The numpy model in float32, the reference for every decoder.

The model is slow and simple. One sequence is processed at a time and without a cache, so no cached
data can be stale. Attention, MLP and mixture of experts are in this module, other mixers in
`mixers.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from tgi.architectures.parameter_names import mixer_tag
from tgi.architectures.rope import sinusoidal_table
from tgi.architectures.spec import (
    MLP,
    Attention,
    Block,
    Branch,
    CrossAttention,
    GatedRecurrence,
    LatentAttention,
    LinearAttention,
    MixtureOfExperts,
    ModelSpec,
    PositionScale,
    RelativeBias,
    Router,
    ShortConvolution,
    SinusoidalPositions,
    Stack,
    StateSpace,
)
from tgi.testing.reference.mixers import (
    cross_attention,
    gated_recurrence,
    latent_attention,
    linear_attention,
    short_convolution,
    state_space,
)
from tgi.testing.reference.operations import (
    Array,
    Rounding,
    Weights,
    activation,
    linear,
    norm,
    rotate,
    rounding_to,
    sigmoid,
    softcap,
    softmax,
    xielu,
)

__all__ = [
    "Weights",
    "activation",
    "alibi_slopes",
    "attention",
    "mixture_of_experts",
    "mlp",
    "norm",
    "reference_hidden",
    "reference_logits",
    "rotate",
]

_EXACT = rounding_to("float32")
_CLAMP_LIMIT = 7.0
"""gpt_oss clamps gate and up to this limit before `silu_clamped`."""


def reference_logits(
    spec: ModelSpec,
    weights: Weights,
    token_ids: Sequence[int],
    encoder_token_ids: Sequence[int] = (),
    vectors: Mapping[int, Array] = MappingProxyType({}),
    *,
    first: int = 0,
    rounding: Rounding = _EXACT,
) -> Array:
    """Compute the logits after token `first` of one sequence and each later token, float32
    [T - first, vocab].

    The other arguments are those of `reference_hidden`.
    """
    x = reference_hidden(spec, weights, token_ids, encoder_token_ids, vectors, rounding=rounding)
    x = x[first:]
    if "head.projection.weight" in weights:
        x = x @ weights["head.projection.weight"].T
    matrix = weights["embedding.weight"] if spec.head.tied else weights["head.weight"]
    logits = x @ matrix.T
    if spec.head.bias:
        logits = logits + weights["head.bias"]
    return softcap(np.float32(spec.head.scale) * logits, spec.head.softcap)


def reference_hidden(
    spec: ModelSpec,
    weights: Weights,
    token_ids: Sequence[int],
    encoder_token_ids: Sequence[int] = (),
    vectors: Mapping[int, Array] = MappingProxyType({}),
    *,
    rounding: Rounding = _EXACT,
) -> Array:
    """Compute the hidden vectors after the final norm, float32 [T, hidden].

    `encoder_token_ids` are the input of the encoder. `vectors` (position → [hidden]) replace the
    embeddings of some positions. `rounding` is applied to the input and the output of each mixer
    and to the hidden vectors between the layers, as a model in 16 bits does.
    """
    encoded = None
    for stack in spec.stacks:
        if stack.kind == "encoder":
            x = rounding(_embed(spec, weights, encoder_token_ids))
            encoded = _run(stack, x, weights, None, rounding)
    x = rounding(_embed(spec, weights, token_ids, vectors))
    return _run(spec.decoder, x, weights, encoded, rounding)


def _run(
    stack: Stack, x: Array, weights: Weights, encoded: Array | None, rounding: Rounding
) -> Array:
    """Run all layers of a stack. `encoded` [E, hidden] is the encoder's output."""
    for index, layer in enumerate(stack.layers):
        for number, block in enumerate(layer.blocks):
            place = (f"{stack.kind}.layers.{index}", number)
            x = rounding(_block(x, block, weights, place, encoded, rounding=rounding))
    return rounding(norm(x, stack.final_norm, weights, f"{stack.kind}.final_norm"))


def _embed(
    spec: ModelSpec,
    weights: Weights,
    token_ids: Sequence[int],
    vectors: Mapping[int, Array] = MappingProxyType({}),
) -> Array:
    rules = spec.embedding
    x: Array = weights["embedding.weight"][list(token_ids)] * np.float32(rules.scale)
    if "embedding.projection.weight" in weights:
        x = x @ weights["embedding.projection.weight"].T
    for position, vector in vectors.items():
        x[position] = vector
    if rules.positions is not None:
        start = rules.positions.offset
        table = (
            sinusoidal_table(rules.positions, spec.hidden_size)
            if isinstance(rules.positions, SinusoidalPositions)
            else weights["embedding.positions.weight"]
        )
        x = x + table[start : start + len(token_ids)]
    return norm(x, rules.norm, weights, "embedding.norm")


def _block(
    x: Array,
    block: Block,
    weights: Weights,
    place: tuple[str, int],
    encoded: Array | None,
    *,
    rounding: Rounding,
) -> Array:
    layer, number = place
    y = rounding(norm(x, block.norm, weights, f"{layer}.block{number}.norm"))
    out = np.zeros_like(x)
    for branch in block.branches:
        name = f"{layer}.{mixer_tag(branch.mixer)}"
        z = rounding(norm(y, branch.norm, weights, f"{name}.norm"))
        out = out + rounding(_branch(z, branch, weights, name, encoded))
    x = (y if block.residual_from_norm else x) + np.float32(block.residual_scale) * out
    return norm(x, block.output_norm, weights, f"{layer}.block{number}.output_norm")


def _branch(y: Array, branch: Branch, weights: Weights, name: str, encoded: Array | None) -> Array:
    match branch.mixer:
        case Attention():
            y = attention(y, branch.mixer, weights, name)
        case MLP():
            y = mlp(y, branch.mixer, weights, name)
        case MixtureOfExperts():
            y = mixture_of_experts(y, branch.mixer, weights, name)
        case LatentAttention():
            y = latent_attention(y, branch.mixer, weights, name)
        case CrossAttention():
            assert encoded is not None, "cross attention without an encoder"
            y = cross_attention(y, encoded, branch.mixer, weights, name)
        case StateSpace():
            y = state_space(y, branch.mixer, weights, name)
        case LinearAttention():
            y = linear_attention(y, branch.mixer, weights, name)
        case ShortConvolution():
            y = short_convolution(y, branch.mixer, weights, name)
        case GatedRecurrence():
            y = gated_recurrence(y, branch.mixer, weights, name)
    return norm(y, branch.post_norm, weights, f"{name}.post_norm")


def attention(y: Array, rule: Attention, weights: Weights, name: str) -> Array:
    """Self-attention over a whole sequence: [T, hidden] → [T, hidden]."""
    num_tokens, heads, kv_heads = len(y), rule.num_heads, rule.num_kv_heads
    q, k, v = _heads(y, rule, weights, name)
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
        mixed = mixed * sigmoid(linear(y, weights, f"{name}.gate"))
    return linear(mixed, weights, f"{name}.o")


def _heads(y: Array, rule: Attention, weights: Weights, name: str) -> tuple[Array, Array, Array]:
    """Compute queries [T, heads, dim], keys and values [T, kv heads, dim], with norms and rotary
    embedding applied.
    """

    def normalized(q: Array, k: Array) -> tuple[Array, Array]:
        return (
            norm(q, rule.q_norm, weights, f"{name}.q_norm"),
            norm(k, rule.k_norm, weights, f"{name}.k_norm"),
        )

    q, k, v = (linear(y, weights, f"{name}.{part}") for part in "qkv")
    if rule.qk_norm_over == "all":
        q, k = normalized(q, k)
    q = q.reshape(len(y), rule.num_heads, -1)
    k, v = (item.reshape(len(y), rule.num_kv_heads, -1) for item in (k, v))
    # A weight [heads, dim] applies to each head separately.
    is_over_heads = rule.qk_norm_over != "all"
    if is_over_heads and not rule.qk_norm_after_rope:
        q, k = normalized(q, k)
    if rule.clip_qkv is not None:
        q, k, v = (item.clip(-rule.clip_qkv, rule.clip_qkv) for item in (q, k, v))
    if rule.rope is not None:
        q, k = rotate(q, rule.rope), rotate(k, rule.rope)
    if is_over_heads and rule.qk_norm_after_rope:
        q, k = normalized(q, k)
    if rule.position_scale is not None:
        q = q * _query_scales(rule.position_scale, len(y))[:, None, None]
    return q, k, v


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


def mlp(y: Array, rule: MLP, weights: Weights, name: str) -> Array:
    """Apply the feed-forward mixer, [T, hidden] → [T, hidden]."""
    up = linear(y, weights, f"{name}.up")
    if rule.activation == "xielu":
        inner = xielu(up, weights[f"{name}.alpha_p"], weights[f"{name}.alpha_n"])
        return linear(inner, weights, f"{name}.down")
    if not rule.gated:
        return linear(activation(up, rule.activation), weights, f"{name}.down")
    gate = linear(y, weights, f"{name}.gate")
    if rule.activation == "silu_clamped":
        gate, up = gate.clip(max=_CLAMP_LIMIT), up.clip(-_CLAMP_LIMIT, _CLAMP_LIMIT) + 1
    return linear(activation(gate, rule.activation) * up, weights, f"{name}.down")


def mixture_of_experts(y: Array, rule: MixtureOfExperts, weights: Weights, name: str) -> Array:
    """Route each token to its experts, [T, hidden] → [T, hidden]."""
    logits = linear(y, weights, f"{name}.router")
    correction = (
        weights[f"{name}.router.correction"]
        if rule.router.correction_bias
        else np.zeros(rule.num_experts, np.float32)
    )
    out = np.zeros_like(y)
    experts = [
        {
            parameter: tensor[index]
            for parameter, tensor in weights.items()
            if parameter.startswith(f"{name}.experts.")
        }
        for index in range(rule.num_experts)
    ]
    for token, row in enumerate(logits):
        for expert, share in _route(row, rule.router, rule.experts_per_token, correction).items():
            before, after = (share, 1) if rule.scale_inputs else (1, share)
            out[token] += after * mlp(
                before * y[token], rule.expert, experts[expert], f"{name}.experts"
            )
    if rule.shared is not None:
        shared = mlp(y, rule.shared, weights, f"{name}.shared")
        if rule.shared_gate:
            shared = shared * sigmoid(linear(y, weights, f"{name}.shared_gate"))
        out = out + shared
    return out * np.float32(rule.scale)


def _route(
    logits: Array, router: Router, experts_per_token: int, correction: Array
) -> dict[int, np.float32]:
    """Return the chosen experts of one token and the weight of each expert."""
    if router.score == "sparse_mixer":
        return _sparse_mixer(logits, router, experts_per_token)
    score = softmax if router.score == "softmax" else sigmoid
    scores = logits if router.top_k_first else score(logits)
    choice = scores + correction
    if router.num_groups > 1:
        groups = choice.reshape(router.num_groups, -1)
        best = np.sort(groups, axis=-1)[:, -router.group_top :].sum(axis=-1)
        kept = np.argsort(-best, kind="stable")[: router.groups_per_token]
        mask = np.isin(np.arange(router.num_groups), kept)[:, None]
        choice = np.where(mask, groups, np.float32(-np.inf)).reshape(-1)
    chosen = np.argsort(-choice, kind="stable")[:experts_per_token]
    shares = score(scores[chosen]) if router.top_k_first else scores[chosen]
    if router.normalize:
        shares = shares / shares.sum()
    return {
        int(expert): np.float32(router.scale) * share
        for expert, share in zip(chosen, shares, strict=True)
    }


def _sparse_mixer(logits: Array, router: Router, experts_per_token: int) -> dict[int, np.float32]:
    """SparseMixer-v2 without its noise (arXiv 2409.12136)."""
    shares: dict[int, np.float32] = {}
    for _ in range(experts_per_token):
        left = np.where(np.isin(np.arange(len(logits)), list(shares)), np.float32(-np.inf), logits)
        best = int(left.argmax())
        distance = (left[best] - logits) / np.maximum(np.abs(logits), left[best])
        near = np.where(distance > 2 * router.jitter, np.float32(-np.inf), left)
        shares[best] = np.float32(router.scale) * softmax(near)[best]
    return shares
