"""Attention over the paged cache in plain XLA operations, the reference for the kernels.

This implementation runs on every platform. Shapes: T tokens, S sequences, P blocks per sequence, B
tokens of a block, H query heads, K key and value heads, D head size. A page array contains the
blocks of one or several layers, [blocks, B, 2 K, D], in which heads alternate key, value, key,
value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import jax
import jax.numpy as jnp

from tgi_tpu.model.layers import softcap
from tgi_tpu.step_arrays import StepArrays

__all__ = [
    "AttentionRule",
    "Vectors",
    "attend",
    "sequence_of_token",
    "step_of_layer",
    "write_pages",
]

Vectors = Mapping[str, jax.Array]
"""The vectors of a layer with one value per query head, float32 [H] each. The possible keys are
`alibi_slopes` and `sinks`.
"""

_TILE = 32
"""Number of queries of one sequence that are scored together."""

_HIDDEN = -1e30
"""Score of a key to which a query does not attend. The score is finite, so that the result of a row
without visible keys is zero instead of NaN.
"""


@final
@dataclass(frozen=True)
class AttentionRule:
    """The parameters of a layer's attention that are known at compile time."""

    scale: float
    window: int | None = None  # in tokens, including the query's own
    softcap: float | None = None


def step_of_layer(
    step: StepArrays, pages: jax.Array, layer: jax.Array, num_layers: int
) -> StepArrays:
    """Return the step with the slots and blocks of layer `layer`, one of the `num_layers` layers in
    `pages`.

    The blocks of a layer follow the blocks of earlier layers. A slot that must not be written is
    mapped to an index after all layers, so that it is not a slot of the next layer.
    """
    num_blocks, block_size = pages.shape[0] // num_layers, pages.shape[1]
    num_slots = num_blocks * block_size
    slots = jnp.where(
        step.slot_mapping < num_slots, step.slot_mapping + layer * num_slots, num_layers * num_slots
    )
    return replace(step, slot_mapping=slots, block_tables=step.block_tables + layer * num_blocks)


def write_pages(
    pages: jax.Array, key: jax.Array, value: jax.Array, slot_mapping: jax.Array
) -> jax.Array:
    """Write key and value [T, K, D] to their slots and return the pages."""
    num_tokens, num_heads, head_dim = key.shape
    both = (
        jnp.stack([key, value], axis=2)
        .reshape(num_tokens, 2 * num_heads, head_dim)
        .astype(pages.dtype)
    )
    slots = pages.reshape(-1, *pages.shape[2:])
    return slots.at[slot_mapping].set(both, mode="drop").reshape(pages.shape)


def sequence_of_token(step: StepArrays) -> jax.Array:
    """Return the sequence of each token, int32 [T]. Padding is assigned to the last sequence."""
    tokens = jnp.arange(step.token_ids.shape[0], dtype=jnp.int32)
    return jnp.minimum(
        jnp.searchsorted(step.cu_query_lens[1:], tokens, side="right"),
        step.context_lens.shape[0] - 1,
    )


def attend(
    query: jax.Array,
    pages: jax.Array,
    step: StepArrays,
    rule: AttentionRule,
    vectors: Vectors,
) -> jax.Array:
    """Compute the attention of queries [T, H, D] over the cache. Returns [T, H, D].

    If the number of tokens is not greater than the number of sequences, the keys are gathered for
    each token. Otherwise the keys are gathered for each tile of queries of one sequence. Unused
    blocks and unused slots of a sequence's last block may contain any value, even NaN.
    """
    num_tokens, num_sequences = query.shape[0], step.context_lens.shape[0]

    def tile(sequence: jax.Array, queries: jax.Array, positions: jax.Array) -> jax.Array:
        """Compute the attention of queries [Q, H, D] at positions [Q] of one sequence."""
        blocks, context_len = step.block_tables[sequence], step.context_lens[sequence]
        return _attend_tile(
            queries, positions, pages[blocks], context_len, rule=rule, vectors=vectors
        )

    if num_tokens <= num_sequences:
        return jax.vmap(tile)(sequence_of_token(step), query[:, None], step.positions[:, None])[
            :, 0
        ]
    size = min(_TILE, num_tokens)
    # The last tile of a sequence overlaps the next sequence. The tiles of the next sequence are
    # computed later and overwrite the overlap.
    padded_query = jnp.pad(query, ((0, size), (0, 0), (0, 0)))
    padded_positions = jnp.pad(step.positions, (0, size))

    def run_tile(
        number: jax.Array, carry: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        out, sequence = carry
        start = step.cu_query_lens[sequence] + number * size
        queries = jax.lax.dynamic_slice_in_dim(padded_query, start, size)
        positions = jax.lax.dynamic_slice_in_dim(padded_positions, start, size)
        done = tile(sequence, queries, positions)
        return jax.lax.dynamic_update_slice_in_dim(out, done, start, axis=0), sequence

    def run_sequence(sequence: jax.Array, out: jax.Array) -> jax.Array:
        done: jax.Array
        query_len = step.cu_query_lens[sequence + 1] - step.cu_query_lens[sequence]
        done, _ = jax.lax.fori_loop(0, (query_len + size - 1) // size, run_tile, (out, sequence))
        return done

    out: jax.Array = jax.lax.fori_loop(
        0, step.num_sequences[0], run_sequence, jnp.zeros_like(padded_query)
    )
    return out[:num_tokens]


def _attend_tile(
    query: jax.Array,
    positions: jax.Array,
    blocks: jax.Array,
    context_len: jax.Array,
    *,
    rule: AttentionRule,
    vectors: Vectors,
) -> jax.Array:
    """Compute the attention of queries [Q, H, D] over the blocks [P, B, 2 K, D] of their
    sequence.
    """
    num_queries, num_heads, head_dim = query.shape
    num_kv_heads = blocks.shape[2] // 2
    keys_and_values = blocks.reshape(-1, num_kv_heads, 2, head_dim)
    key_positions = jnp.arange(keys_and_values.shape[0], dtype=jnp.int32)
    # Values in slots that were never written are replaced, because they may be NaN, and zero times
    # NaN is NaN.
    is_written = (key_positions < context_len)[:, None, None, None]
    keys_and_values = jnp.where(is_written, keys_and_values, 0)
    key, value = keys_and_values[:, :, 0], keys_and_values[:, :, 1]
    grouped = query.reshape(num_queries, num_kv_heads, -1, head_dim)
    precision = jax.lax.Precision.HIGHEST if query.dtype == jnp.float32 else None
    product = jnp.einsum(
        "qkgd,nkd->kgqn", grouped, key, precision=precision, preferred_element_type=jnp.float32
    )
    scores = softcap(product.reshape(num_heads, num_queries, -1) * rule.scale, rule.softcap)
    distance = positions[:, None] - key_positions
    if "alibi_slopes" in vectors:
        scores = scores - vectors["alibi_slopes"][:, None, None] * distance.astype(jnp.float32)
    is_seen = (distance >= 0) & (key_positions < context_len)
    if rule.window is not None:
        is_seen = is_seen & (distance < rule.window)
    probabilities = _softmax(jnp.where(is_seen, scores, _HIDDEN), vectors.get("sinks")).astype(
        query.dtype
    )
    shared = probabilities.reshape(num_kv_heads, -1, *probabilities.shape[1:])
    out = jnp.einsum(
        "kgqn,nkd->qkgd", shared, value, precision=precision, preferred_element_type=jnp.float32
    )
    return out.reshape(query.shape).astype(query.dtype)


def _softmax(scores: jax.Array, sinks: jax.Array | None) -> jax.Array:
    """Compute the softmax over the last axis of [H, Q, N]. A head's sink is added only to the
    denominator.
    """
    largest = jnp.max(scores, axis=-1, keepdims=True)
    if sinks is not None:
        largest = jnp.maximum(largest, sinks[:, None, None])
    exponentials = jnp.exp(scores - largest)
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    if sinks is not None:
        total = total + jnp.exp(sinks[:, None, None] - largest)
    return exponentials / total
