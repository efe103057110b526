"""The numpy model in float32, the reference for every decoder.

The model is slow and simple. One sequence is processed at a time and without a cache, so no cached
data can be stale. MLP and mixture of experts are in this module, attention in `attention.py`, and
other mixers in `mixers.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

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
    LayerInput,
    LightningAttention,
    LinearAttention,
    MixtureOfExperts,
    ModelSpec,
    Router,
    ShortConvolution,
    SinusoidalPositions,
    Stack,
    StateSpace,
)
from tgi.testing.reference.attention import Caches, attention
from tgi.testing.reference.mixers import (
    cross_attention,
    gated_recurrence,
    latent_attention,
    lightning_attention,
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
    rounding_to,
    sigmoid,
    softcap,
    softmax,
    xielu,
)

__all__ = ["Weights", "reference_hidden", "reference_logits"]

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
            encoded = _run(stack, x, _Pass(weights, None, rounding))
    x = rounding(_embed(spec, weights, token_ids, vectors))
    layer_inputs = _layer_inputs(spec, weights, token_ids, x)
    return _run(spec.decoder, x, _Pass(weights, encoded, rounding, layer_inputs))


@dataclass(frozen=True)
class _Pass:
    """The data that the layers of a stack share."""

    weights: Weights
    encoded: Array | None  # [E, hidden], the output of the encoder
    rounding: Rounding
    layer_inputs: Array | None = None  # [T, layers, size]
    caches: Caches = field(default_factory=dict)


def _run(stack: Stack, x: Array, shared: _Pass) -> Array:
    """Run all layers of a stack."""
    for index, layer in enumerate(stack.layers):
        for number, block in enumerate(layer.blocks):
            place = (f"{stack.kind}.layers.{index}", number)
            x = shared.rounding(_block(x, block, place, shared))
    final = norm(x, stack.final_norm, shared.weights, f"{stack.kind}.final_norm")
    return shared.rounding(final)


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


def _layer_inputs(
    spec: ModelSpec, weights: Weights, token_ids: Sequence[int], x: Array
) -> Array | None:
    """Compute the inputs of all layers from the token ids and their vectors x [T, hidden].

    The result is [T, layers, size], or None if the layers have no inputs.
    """
    rules = spec.embedding.layer_inputs
    if rules is None:
        return None
    shape = (len(token_ids), len(spec.decoder.layers), rules.size)
    table = weights["embedding.layer_inputs.weight"][list(token_ids)].reshape(shape)
    projected = linear(x, weights, "embedding.layer_projection").reshape(shape)
    projected = projected * np.float32(rules.projection_scale)
    projected = norm(projected, rules.norm, weights, "embedding.layer_norm")
    return (projected + table * np.float32(rules.scale)) * np.float32(rules.sum_scale)


def _block(x: Array, block: Block, place: tuple[str, int], shared: _Pass) -> Array:
    layer, number = place
    weights, rounding = shared.weights, shared.rounding
    y = rounding(norm(x, block.norm, weights, f"{layer}.block{number}.norm"))
    out = np.zeros_like(x)
    for branch in block.branches:
        name = f"{layer}.{mixer_tag(branch.mixer)}"
        z = rounding(norm(y, branch.norm, weights, f"{name}.norm"))
        out = out + rounding(_branch(z, branch, name, shared))
    kept = np.float32(block.input_scale) * (y if block.residual_from_norm else x)
    x = kept + np.float32(block.residual_scale) * out
    x = norm(x, block.output_norm, weights, f"{layer}.block{number}.output_norm")
    return x * weights[f"{layer}.block{number}.output_scale"] if block.output_scale else x


def _branch(y: Array, branch: Branch, name: str, shared: _Pass) -> Array:
    weights = shared.weights
    match branch.mixer:
        case Attention():
            y = attention(y, branch.mixer, weights, name, shared.caches)
        case MLP():
            y = mlp(y, branch.mixer, weights, name)
        case MixtureOfExperts():
            y = mixture_of_experts(y, branch.mixer, weights, name)
        case LatentAttention():
            y = latent_attention(y, branch.mixer, weights, name)
        case CrossAttention():
            assert shared.encoded is not None, "cross attention without an encoder"
            y = cross_attention(y, shared.encoded, branch.mixer, weights, name)
        case StateSpace():
            y = state_space(y, branch.mixer, weights, name)
        case LinearAttention():
            y = linear_attention(y, branch.mixer, weights, name)
        case ShortConvolution():
            y = short_convolution(y, branch.mixer, weights, name)
        case GatedRecurrence():
            y = gated_recurrence(y, branch.mixer, weights, name)
        case LightningAttention():
            y = lightning_attention(y, branch.mixer, weights, name)
        case LayerInput():
            assert shared.layer_inputs is not None, "a model whose layers have no inputs"
            inputs = shared.layer_inputs[:, int(name.split(".")[2])]
            gate = activation(linear(y, weights, f"{name}.gate"), branch.mixer.activation)
            y = linear(gate * inputs, weights, f"{name}.out")
    return norm(y, branch.post_norm, weights, f"{name}.post_norm")


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
