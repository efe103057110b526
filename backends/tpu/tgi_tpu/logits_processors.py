"""What changes scores before a token is chosen: pure functions over rows, compiled as parts of the sampler.

Scores are float32 [R, V], parameters [R] with one value per row, and every function returns new scores in which a token that is
cut has -inf. Each is the batched form of the function in `tgi.testing.sampling` that names its formula and source, up to
rounding; its parameter's neutral value leaves a row as it is.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = [
    "allowed_tokens",
    "count_tokens",
    "cut_atypical",
    "cut_below_min_p",
    "cut_by_rank",
    "favour_green_tokens",
    "penalize",
]

_HASH_KEY = 15485863
_GOLDEN = 0x9E3779B9
_CUT = -jnp.inf


def favour_green_tokens(scores: jax.Array, previous: jax.Array, last_green: jax.Array, delta: jax.Array) -> jax.Array:
    """Add `delta` to the tokens that are green after `previous` (int32): those whose hash is at most `last_green` (uint32)."""
    tokens = jnp.arange(scores.shape[1], dtype=jnp.uint32)
    h = previous.astype(jnp.uint32)[:, None] * jnp.uint32(_HASH_KEY) + tokens * jnp.uint32(_GOLDEN)
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    h ^= h >> 16
    return jnp.where(h <= last_green[:, None], scores + delta[:, None], scores)


def count_tokens(history: jax.Array, is_counted: jax.Array, vocab_size: int) -> jax.Array:
    """How often each id stands at the counted places (bool [R, L]) of `history` (int32 [R, L]): float32 [R, V]."""
    rows = jnp.arange(history.shape[0])[:, None]
    ids = jnp.where(is_counted, history, vocab_size)  # beyond the vocabulary, so it is dropped
    return jnp.zeros((history.shape[0], vocab_size), jnp.float32).at[rows, ids].add(1.0, mode="drop")


def penalize(
    scores: jax.Array,
    *,
    context: jax.Array,  # counts over prompt and output
    output: jax.Array,  # counts over the output
    lengths: jax.Array,  # of prompt and output
    repetition: jax.Array,
    relative_frequency: jax.Array,
    frequency: jax.Array,
    presence: jax.Array,
) -> jax.Array:
    """The four penalties, in the order of `SamplingParams`. Neutral: 1, 0, 0, 0."""
    repetition = repetition[:, None]
    penalized = jnp.where(scores < 0, scores * repetition, scores / repetition)
    scores = jnp.where(context > 0, penalized, scores)
    scores -= relative_frequency[:, None] * context / jnp.maximum(lengths, 1)[:, None]
    return scores - frequency[:, None] * output - presence[:, None] * (output > 0)


def allowed_tokens(words: jax.Array, vocab_size: int) -> jax.Array:
    """Packed words int32 [R, W], lowest id in the lowest bit, as bool [R, V]. Neutral: all bits set."""
    bits = words[:, :, None] >> jnp.arange(32, dtype=jnp.int32)
    return (bits & 1).reshape(words.shape[0], -1)[:, :vocab_size].astype(bool)


def cut_by_rank(scores: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """Top-k, then top-p, over one sort. Neutral: 0 and 1.

    Top-k keeps ties with the last token. Top-p keeps each token unless those before it hold `top_p` already, and of equal scores
    the lower ids come first: TGI's rule, ascending and cutting what is within 1 - top_p, read from the other end.
    """
    vocab_size = scores.shape[1]
    descending = -jnp.sort(-scores, axis=-1)
    last_rank = jnp.where(top_k > 0, jnp.minimum(top_k, vocab_size), vocab_size) - 1
    kth = jnp.take_along_axis(descending, last_rank[:, None], axis=-1)
    scores, descending = (jnp.where(values < kth, _CUT, values) for values in (scores, descending))
    mass = jnp.cumsum(jax.nn.softmax(descending, axis=-1), axis=-1)
    num_kept = jnp.minimum(jnp.sum(mass < top_p[:, None], axis=-1) + 1, vocab_size)[:, None]
    last = jnp.take_along_axis(descending, num_kept - 1, axis=-1)
    is_last = scores == last
    num_above = jnp.sum(scores > last, axis=-1, keepdims=True)
    in_nucleus = (scores > last) | (is_last & (jnp.cumsum(is_last, axis=-1) <= num_kept - num_above))
    return jnp.where(in_nucleus | (top_p[:, None] >= 1), scores, _CUT)


def cut_atypical(scores: jax.Array, typical_p: jax.Array) -> jax.Array:
    """Keep the tokens whose surprise is nearest to the entropy until they hold `typical_p`, and ties with the last one.

    Neutral: 1.
    """
    logprobs = jax.nn.log_softmax(scores, axis=-1)
    probabilities = jnp.exp(logprobs)
    terms = jnp.where(probabilities > 0, probabilities * logprobs, 0)
    distance = jnp.abs(logprobs - jnp.sum(terms, axis=-1, keepdims=True))
    nearest, mass = jax.lax.sort((distance, probabilities), dimension=-1, num_keys=1)
    num_below = jnp.sum(jnp.cumsum(mass, axis=-1) < typical_p[:, None], axis=-1, keepdims=True)
    limit = jnp.take_along_axis(nearest, jnp.minimum(num_below, scores.shape[1] - 1), axis=-1)
    return jnp.where((distance <= limit) | (typical_p[:, None] >= 1), scores, _CUT)


def cut_below_min_p(scores: jax.Array, min_p: jax.Array) -> jax.Array:
    """Keep the tokens that are at least `min_p` as likely as the best one. Neutral: 0."""
    return jnp.where(scores < jnp.max(scores, axis=-1, keepdims=True) + jnp.log(min_p)[:, None], _CUT, scores)
