"""A mixture of experts: the router, and experts that are computed one by one.

Shapes: T tokens, E experts, L layers whose experts are stacked.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from tgi.architectures import MixtureOfExperts, Router
from tgi_tpu.mesh import AXIS, matrix_cuts, partition
from tgi_tpu.model.layers import Weights, linear, mlp, vector
from tgi_tpu.weights.quantized import GroupedMatrix, QuantizedMatrix, Weight

__all__ = ["is_of_experts", "mixture_of_experts"]

_EXPERTS = "moe.experts."
_DOWN_BIAS = f"{_EXPERTS}down.bias"


def is_of_experts(parameter: str) -> bool:
    """Whether a layer's parameter is stacked over experts."""
    return parameter.startswith(_EXPERTS)


def mixture_of_experts(
    x: jax.Array,
    rule: MixtureOfExperts,
    weights: Weights,
    experts: Weights,
    layer: jax.Array,
    *,
    mesh: Mesh,
) -> jax.Array:
    """Route each token to its experts: [T, hidden] to [T, hidden].

    `experts` contains the experts' parameters of several layers, [L, E, ...]. These parameters are
    not sliced in advance, so that the weights of an expert without tokens are not read. `layer` is
    the index of this layer.
    """
    logits = linear(x, weights, "moe.router").astype(jnp.float32)
    correction = (
        vector(weights, "moe.router.correction").astype(jnp.float32)
        if rule.router.correction_bias
        else None
    )
    shares = _route(logits, rule.router, rule.experts_per_token, correction)
    out = _sum_of_experts(x, rule, shares, experts, layer, mesh=mesh)
    if rule.shared is not None:
        shared = mlp(x, rule.shared, weights, "moe.shared").astype(jnp.float32)
        if rule.shared_gate:
            shared = shared * jax.nn.sigmoid(
                linear(x, weights, "moe.shared_gate").astype(jnp.float32)
            )
        out = out + shared
    return (out * rule.scale).astype(x.dtype)


def _sum_of_experts(
    x: jax.Array,
    rule: MixtureOfExperts,
    shares: jax.Array,
    experts: Weights,
    layer: jax.Array,
    *,
    mesh: Mesh,
) -> jax.Array:
    """Compute the sum of the experts' outputs, weighted with `shares` [T, E].

    Returns float32 [T, hidden]. The devices exchange their sums once, at the end.
    """
    matrices = {
        parameter: weight for parameter, weight in experts.items() if parameter != _DOWN_BIAS
    }
    if mesh.size == 1:
        out = _partial_sum(rule, x, shares, layer, matrices)
    else:

        def on_device(
            x: jax.Array, shares: jax.Array, layer: jax.Array, matrices: Weights
        ) -> jax.Array:
            total: jax.Array = jax.lax.psum(_partial_sum(rule, x, shares, layer, matrices), AXIS)
            return total

        whole = PartitionSpec()
        cut = {
            parameter: _partition(parameter, weight, mesh.size)
            for parameter, weight in matrices.items()
        }
        divided = jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=(whole, whole, whole, cut),
            out_specs=whole,
            check_vma=False,
        )
        out = divided(x, shares, layer, matrices)
    if _DOWN_BIAS in experts:
        bias = jax.lax.dynamic_index_in_dim(vector(experts, _DOWN_BIAS), layer, keepdims=False)
        out = out + shares @ bias.astype(jnp.float32)
    return out


def _partial_sum(
    rule: MixtureOfExperts, x: jax.Array, shares: jax.Array, layer: jax.Array, experts: Weights
) -> jax.Array:
    """Compute one device's part of the sum, over all experts that at least one token uses.

    Returns float32 [T, hidden].
    """

    def add_expert(number: jax.Array, total: jax.Array) -> jax.Array:
        share = jax.lax.dynamic_index_in_dim(shares, number, axis=1)

        def add() -> jax.Array:
            place = layer * rule.num_experts + number
            expert = jax.tree.map(lambda stacked: _flat(stacked)[place], experts)
            done: jax.Array = total + share * mlp(x, rule.expert, expert, "moe.experts").astype(
                jnp.float32
            )
            return done

        added: jax.Array = jax.lax.cond(jnp.any(share != 0), add, lambda: total)
        return added

    out: jax.Array = jax.lax.fori_loop(
        0, rule.num_experts, add_expert, jnp.zeros(x.shape, jnp.float32)
    )
    return out


def _flat(stacked: jax.Array) -> jax.Array:
    """View [L, E, ...] as [L * E, ...], so that one index copies only one expert."""
    return stacked.reshape(-1, *stacked.shape[2:])


def _partition(parameter: str, weight: Weight, tp_size: int) -> Any:  # noqa: ANN401 - specs in place of arrays
    """Return the division of an expert's parameter [L, E, ...] among the devices. For a quantized
    parameter, the result contains the division of each array.
    """
    if isinstance(weight, GroupedMatrix):
        _, num_experts, groups, size, num_outputs = weight.values.shape
        shape = (num_experts, num_outputs, groups * size)
        values, scale = matrix_cuts(partition(parameter, shape, tp_size, leading=1), 2)
        return jax.tree.map(lambda array: values if array is weight.values else scale, weight)
    if not isinstance(weight, QuantizedMatrix):
        return partition(parameter, weight.shape[1:], tp_size, leading=1)
    cut = partition(parameter, weight.values.shape[1:], tp_size, leading=1)
    return QuantizedMatrix(cut, PartitionSpec(*cut[: weight.scale.ndim]))  # type: ignore[arg-type] # specs instead of arrays


def _route(
    logits: jax.Array, router: Router, experts_per_token: int, correction: jax.Array | None
) -> jax.Array:
    """Return the weight of each expert for each token. The weight is 0 for experts that were not
    chosen.

    Returns float32 [T, E] for logits [T, E].
    """
    if router.score == "sparse_mixer":
        return _sparse_mixer(logits, router, experts_per_token)
    score = jax.nn.softmax if router.score == "softmax" else jax.nn.sigmoid
    scores = logits if router.top_k_first else score(logits)
    choice = scores if correction is None else scores + correction.astype(jnp.float32)
    if router.num_groups > 1:
        choice = _within_best_groups(choice, router)
    _, chosen = jax.lax.top_k(choice, experts_per_token)
    shares = jnp.take_along_axis(scores, chosen, axis=-1)
    if router.top_k_first:
        shares = score(shares)
    if router.normalize:
        shares = shares / jnp.sum(shares, axis=-1, keepdims=True)
    return jnp.put_along_axis(
        jnp.zeros_like(scores), chosen, router.scale * shares, axis=-1, inplace=False
    )


def _within_best_groups(choice: jax.Array, router: Router) -> jax.Array:
    """Replace the scores of experts outside the best groups by minus infinity."""
    groups = choice.reshape(len(choice), router.num_groups, -1)
    best = jnp.sum(jax.lax.top_k(groups, router.group_top)[0], axis=-1)
    _, kept = jax.lax.top_k(best, router.groups_per_token)
    is_kept = jnp.any(jax.nn.one_hot(kept, router.num_groups, dtype=bool), axis=1)
    return jnp.where(is_kept[:, :, None], groups, -jnp.inf).reshape(choice.shape)


def _sparse_mixer(logits: jax.Array, router: Router, experts_per_token: int) -> jax.Array:
    """SparseMixer-v2 without its noise (arXiv 2409.12136)."""
    shares, left = jnp.zeros_like(logits), logits
    for _ in range(experts_per_token):
        best = jnp.max(left, axis=-1, keepdims=True)
        distance = (best - logits) / jnp.maximum(jnp.abs(logits), best)
        near = jnp.where(distance > 2 * router.jitter, -jnp.inf, left)
        is_best = jax.nn.one_hot(jnp.argmax(left, axis=-1), logits.shape[-1], dtype=bool)
        shares = jnp.where(is_best, router.scale * jax.nn.softmax(near, axis=-1), shares)
        left = jnp.where(is_best, -jnp.inf, left)
    return shares
