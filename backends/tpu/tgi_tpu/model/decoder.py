"""The decoder of a `ModelSpec` in JAX, as pure functions over a tree of arrays.

Shapes: T tokens, R rows with logits, H query heads, K key and value heads, D head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import jax
import jax.numpy as jnp
import numpy as np

from tgi.architectures import (
    MLP,
    Attention,
    Block,
    Branch,
    MixtureOfExperts,
    ModelSpec,
    Rope,
    SinusoidalPositions,
)
from tgi.architectures.parameter_names import mixer_tag
from tgi.architectures.rope import sinusoidal_table
from tgi_tpu.attention.cache import Cache, cache_bytes_per_block, copy_blocks, empty_cache
from tgi_tpu.attention.paged import AttentionRule, sequence_of_token, step_of_layer
from tgi_tpu.attention.plan import AttentionPlan, write_and_attend
from tgi_tpu.mesh import replicated
from tgi_tpu.model.layer_groups import LayerGroup, attention_of, cache_shapes, layer_groups
from tgi_tpu.model.layers import (
    Rotation,
    Weights,
    linear,
    mlp,
    norm,
    rotate,
    rotation,
    softcap,
    vector,
)
from tgi_tpu.model.mixture_of_experts import is_of_experts, mixture_of_experts
from tgi_tpu.step_arrays import StepArrays
from tgi_tpu.weights.parameters import Parameters, load
from tgi_tpu.weights.quantized import matmul

__all__ = [
    "cache_bytes_per_block",
    "copy_blocks",
    "empty_cache",
    "forward",
    "hidden_states",
    "load",
    "logits",
]


@final
@dataclass(frozen=True)
class _Context:
    """Data that all layers share during one step."""

    spec: ModelSpec
    step: StepArrays
    rotations: dict[Rope, Rotation]
    plan: AttentionPlan


@final
@dataclass(frozen=True)
class _CachePlace:
    """Where a layer's keys and values are stored."""

    array: int  # index in the cache
    layer: jax.Array  # index among the layers of that array
    num_layers: int


@final
@dataclass(frozen=True)
class _LayerInputs:
    """The arguments of one layer."""

    weights: Weights  # by parameter name without the prefix `decoder.layers.{i}.`
    place: _CachePlace | None
    experts: Weights  # stacked over the repeats of the layer's group
    repeat: jax.Array  # index of the layer among these repeats


def forward(
    spec: ModelSpec,
    parameters: Parameters,
    cache: Cache,
    step: StepArrays,
    *,
    attention: AttentionPlan,
) -> tuple[jax.Array, Cache]:
    """Run the model on a step.

    Returns logits float32 [R, vocab] after the tokens `step.logit_indices`, and the cache with the
    keys and values of this step. The function is pure. For compilation, `spec` and `attention` are
    hashable and can be static arguments, and the cache should be donated.
    """
    x, cache = hidden_states(spec, parameters, cache, step, attention=attention)
    return logits(spec, parameters, x[step.logit_indices], attention=attention), cache


def hidden_states(
    spec: ModelSpec,
    parameters: Parameters,
    cache: Cache,
    step: StepArrays,
    *,
    attention: AttentionPlan,
) -> tuple[jax.Array, Cache]:
    """Run the layers on a step.

    Returns hidden vectors [T, hidden] before the final norm, and the cache with the keys and values
    of this step.
    """
    lengths = step.rotary_lens[sequence_of_token(step)]
    mixers = [mixer for layer in spec.decoder.layers if (mixer := attention_of(layer)) is not None]
    ropes = dict.fromkeys(mixer.rope for mixer in mixers if mixer.rope is not None)
    rotations = {rope: rotation(rope, step.positions, lengths) for rope in ropes}
    context = _Context(spec, step, rotations, attention)
    x = _embed(spec, parameters.outside, step)
    for group, members in zip(layer_groups(spec), parameters.groups, strict=True):
        x, cache = _run_group(context, group, members, x, cache)
    return x, cache


def logits(
    spec: ModelSpec, parameters: Parameters, hidden: jax.Array, *, attention: AttentionPlan
) -> jax.Array:
    """Compute logits float32 [N, vocab] of hidden vectors [N, hidden], complete on every device."""
    weights = parameters.outside
    x = norm(hidden, spec.decoder.final_norm, weights, "decoder.final_norm")
    if "head.projection.weight" in weights:
        x = linear(x, weights, "head.projection")
    product = matmul(x, weights["embedding.weight" if spec.head.tied else "head.weight"]).astype(
        jnp.float32
    )
    if spec.head.bias:
        product = product + vector(weights, "head.bias").astype(jnp.float32)
    capped = softcap(product * spec.head.scale, spec.head.softcap)
    whole: jax.Array = jax.lax.with_sharding_constraint(capped, replicated(attention.mesh))
    return whole


def _embed(spec: ModelSpec, weights: Weights, step: StepArrays) -> jax.Array:
    rules, table = spec.embedding, vector(weights, "embedding.weight")
    # JAX clamps an id above the last row, so it never reads outside of the table.
    x = table[step.token_ids]
    if rules.scale != 1.0:
        # The scale is first rounded to the compute dtype, as in `transformers`.
        x = x * jnp.asarray(rules.scale, table.dtype)
    if "embedding.projection.weight" in weights:
        x = linear(x, weights, "embedding.projection")
    if rules.positions is not None:
        positions = (
            jnp.asarray(sinusoidal_table(rules.positions, spec.hidden_size), table.dtype)
            if isinstance(rules.positions, SinusoidalPositions)
            else vector(weights, "embedding.positions.weight")
        )
        x = x + positions[step.positions + rules.positions.offset]
    return norm(x, rules.norm, weights, "embedding.norm")


def _run_group(
    context: _Context, group: LayerGroup, members: tuple[Weights, ...], x: jax.Array, cache: Cache
) -> tuple[jax.Array, Cache]:
    """Run all layers of a group on x [T, hidden]."""
    # Experts are not inputs of the loop, because `scan` copies the input slice of every iteration.
    experts = [
        {parameter: weight for parameter, weight in weights.items() if is_of_experts(parameter)}
        for weights in members
    ]
    others = tuple(
        {parameter: weight for parameter, weight in weights.items() if not is_of_experts(parameter)}
        for weights in members
    )

    def run_pattern(
        flow: tuple[jax.Array, Cache], item: tuple[jax.Array, tuple[Weights, ...]]
    ) -> tuple[tuple[jax.Array, Cache], None]:
        repeat, weights = item
        for member, layer in enumerate(group.pattern):
            here = _LayerInputs(
                weights[member],
                _place(context.spec, group, member, repeat),
                experts[member],
                repeat,
            )
            for number, block in enumerate(layer.blocks):
                flow = _block(context, here, block, number, flow)
        return flow, None

    numbers = jnp.arange(group.repeats, dtype=jnp.int32)
    return jax.lax.scan(run_pattern, (x, cache), (numbers, others))[0]


def _place(
    spec: ModelSpec, group: LayerGroup, member: int, repeat: jax.Array
) -> _CachePlace | None:
    """Return the place of a layer's keys and values, or None if the layer has no attention."""
    first = group.first + member
    for array, shape in enumerate(cache_shapes(spec)):
        if first in shape.layers:
            # Number of layers of one pattern in this array. It is the distance between two repeats.
            stride = sum(0 <= layer - group.first < len(group.pattern) for layer in shape.layers)
            return _CachePlace(
                array, shape.layers.index(first) + repeat * stride, len(shape.layers)
            )
    return None


def _block(
    context: _Context, here: _LayerInputs, block: Block, number: int, flow: tuple[jax.Array, Cache]
) -> tuple[jax.Array, Cache]:
    """Run one residual block."""
    x, cache = flow
    y = norm(x, block.norm, here.weights, f"block{number}.norm")
    out = jnp.zeros_like(x)
    for branch in block.branches:
        mixed, cache = _branch(context, here, branch, y, cache)
        out = out + mixed
    x = (y if block.residual_from_norm else x) + jnp.asarray(block.residual_scale, x.dtype) * out
    return norm(x, block.output_norm, here.weights, f"block{number}.output_norm"), cache


def _branch(
    context: _Context, here: _LayerInputs, branch: Branch, y: jax.Array, cache: Cache
) -> tuple[jax.Array, Cache]:
    """Run one mixer with its norms."""
    mixer, name, weights = branch.mixer, mixer_tag(branch.mixer), here.weights
    y = norm(y, branch.norm, weights, f"{name}.norm")
    match mixer:
        case Attention():
            y, cache = _attention(context, here, mixer, y, cache)
        case MLP():
            y = mlp(y, mixer, weights, name)
        case MixtureOfExperts():
            y = mixture_of_experts(
                y, mixer, weights, here.experts, here.repeat, mesh=context.plan.mesh
            )
        case _:
            raise NotImplementedError(name)  # `coverage.unsupported` rejects such models
    return norm(y, branch.post_norm, weights, f"{name}.post_norm"), cache


def _attention(
    context: _Context, here: _LayerInputs, mixer: Attention, y: jax.Array, cache: Cache
) -> tuple[jax.Array, Cache]:
    """Run self-attention on y [T, hidden] and store its keys and values in the cache."""
    weights, place = here.weights, here.place
    assert place is not None, "a layer with attention has a place in the cache"
    qkv = _heads(context, mixer, weights, y)
    pages = cache[place.array]
    step = step_of_layer(context.step, pages, place.layer, place.num_layers)
    rule = AttentionRule(mixer.scale, mixer.window, mixer.softcap)
    vectors = {}
    if mixer.alibi:
        vectors["alibi_slopes"] = jnp.asarray(_alibi_slopes(mixer))
    if mixer.sinks:
        vectors["sinks"] = vector(weights, "attention.sinks").astype(jnp.float32)
    mixed, pages = write_and_attend(context.plan, qkv, pages, step, rule=rule, vectors=vectors)
    mixed = mixed.reshape(len(y), -1)
    if mixer.output_gate:
        mixed = mixed * jax.nn.sigmoid(linear(y, weights, "attention.gate"))
    return linear(mixed, weights, "attention.o"), (
        *cache[: place.array],
        pages,
        *cache[place.array + 1 :],
    )


def _heads(
    context: _Context, mixer: Attention, weights: Weights, y: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Compute query [T, H, D], key and value [T, K, D], with norms and rotary embedding applied."""

    def normalized(q: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
        return (
            norm(q, mixer.q_norm, weights, "attention.q_norm"),
            norm(k, mixer.k_norm, weights, "attention.k_norm"),
        )

    q, k, v = (linear(y, weights, f"attention.{part}") for part in "qkv")
    over_all = mixer.qk_norm_over == "all"
    if over_all:
        q, k = normalized(q, k)
    q, k, v = (part.reshape(len(y), -1, mixer.head_dim) for part in (q, k, v))
    # A weight [H, D] applies to each head separately.
    if not over_all and not mixer.qk_norm_after_rope:
        q, k = normalized(q, k)
    if mixer.clip_qkv is not None:
        q, k, v = (jnp.clip(part, -mixer.clip_qkv, mixer.clip_qkv) for part in (q, k, v))
    if mixer.rope is not None:
        turn = context.rotations[mixer.rope]
        q, k = rotate(q, mixer.rope, turn), rotate(k, mixer.rope, turn)
    if not over_all and mixer.qk_norm_after_rope:
        q, k = normalized(q, k)
    if (rule := mixer.position_scale) is not None:
        turns = ((context.step.positions + rule.offset) // rule.period).astype(jnp.float32)
        q = q * (1 + rule.beta * jnp.log1p(turns)).astype(q.dtype)[:, None, None]
    return q, k, v


def _alibi_slopes(mixer: Attention) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Slopes of ALiBi (arXiv 2108.12409), float32 [H].

    Let n be the greatest power of two that is at most H. The slopes of the first n heads form a
    geometric series. The other heads have every second slope of the series for 2 n heads.
    """
    power = 2 ** math.floor(math.log2(mixer.num_heads))
    exponents = [(head + 1) / power for head in range(power)]
    exponents += [(2 * head + 1) / (2 * power) for head in range(mixer.num_heads - power)]
    return np.asarray(
        [mixer.alibi_scale * 2.0 ** (-mixer.alibi_bias_max * e) for e in exponents], np.float32
    )
