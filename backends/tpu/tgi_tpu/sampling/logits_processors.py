"""Logits processors: pure functions over rows, compiled as parts of the sampler.

Scores are float32 [R, V], and parameters are [R] with one value per row. Every function returns new
scores, in which the score of an excluded token is -inf. Each function is the batched form of a
function in `tgi.testing.sampling`, which states the formula and its source. Results are equal up to
rounding. The neutral value of a parameter leaves a row unchanged.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = [
    "allowed_tokens",
    "count_tokens",
    "cut_atypical",
    "cut_below_min_p",
    "cut_below_top_k",
    "cut_outside_nucleus",
    "favour_green_tokens",
    "penalize",
]

_HASH_KEY = 15485863
_GOLDEN = 0x9E3779B9
_CUT = -jnp.inf


def favour_green_tokens(
    scores: jax.Array, previous: jax.Array, last_green: jax.Array, delta: jax.Array
) -> jax.Array:
    """Add `delta` to the tokens that are green after `previous` (int32).

    A token is green if its hash is at most `last_green` (uint32).
    """
    tokens = jnp.arange(scores.shape[1], dtype=jnp.uint32)
    h = previous.astype(jnp.uint32)[:, None] * jnp.uint32(_HASH_KEY) + tokens * jnp.uint32(_GOLDEN)
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    h ^= h >> 16
    return jnp.where(h <= last_green[:, None], scores + delta[:, None], scores)


def count_tokens(history: jax.Array, is_counted: jax.Array, vocab_size: int) -> jax.Array:
    """Count each id of `history` (int32 [R, L]) at the positions where `is_counted` (bool [R, L])
    is true.

    Returns float32 [R, V]. The rows are processed one by one, because XLA sorts scattered indices
    on a TPU. A sort over all rows takes ten times as long to compile.
    """
    ids = jnp.where(is_counted, history, vocab_size)  # an id above the vocabulary is dropped
    counts: jax.Array = jax.lax.map(
        lambda row: jnp.zeros(vocab_size, jnp.float32).at[row].add(1.0, mode="drop"), ids
    )
    return counts


def penalize(
    scores: jax.Array,
    *,
    context: jax.Array,  # counts over prompt and output
    output: jax.Array,  # counts over the output
    lengths: jax.Array,  # number of prompt and output tokens
    repetition: jax.Array,
    relative_frequency: jax.Array,
    frequency: jax.Array,
    presence: jax.Array,
) -> jax.Array:
    """Apply the four penalties in the order of `SamplingParams`. The neutral values are 1, 0, 0 and
    0.
    """
    repetition = repetition[:, None]
    penalized = jnp.where(scores < 0, scores * repetition, scores / repetition)
    scores = jnp.where(context > 0, penalized, scores)
    scores -= relative_frequency[:, None] * context / jnp.maximum(lengths, 1)[:, None]
    return scores - frequency[:, None] * output - presence[:, None] * (output > 0)


def allowed_tokens(words: jax.Array, vocab_size: int) -> jax.Array:
    """Unpack the bits of words int32 [R, W] to bool [R, V].

    The lowest bit is the lowest id. A mask with all bits set is neutral.
    """
    bits = words[:, :, None] >> jnp.arange(32, dtype=jnp.int32)
    return (bits & 1).reshape(words.shape[0], -1)[:, :vocab_size].astype(bool)


def cut_below_top_k(scores: jax.Array, top_k: jax.Array) -> jax.Array:
    """Keep the `top_k` (int32) best tokens, and all tokens with the same score as the last of these
    tokens. The neutral value is 0.
    """
    keys = _ordered_keys(scores)
    wanted = jnp.where(top_k > 0, top_k.astype(jnp.float32), jnp.inf)
    return jnp.where(keys >= _key_reaching(wanted, keys, jnp.ones_like(scores)), scores, _CUT)


def cut_outside_nucleus(scores: jax.Array, top_p: jax.Array) -> jax.Array:
    """Keep each token unless the tokens before it already have a total probability of `top_p`.

    Tokens are ordered by score, and tokens with equal scores are ordered by id. This is equivalent
    to TGI's rule: in ascending order, tokens are excluded while the cumulative probability is at
    most 1 - top_p. The neutral value is 1.
    """
    keys, probabilities = _ordered_keys(scores), jax.nn.softmax(scores, axis=-1)
    wanted = jnp.where(top_p < 1, top_p, jnp.inf)
    last = _key_reaching(wanted, keys, probabilities)
    missing = wanted - jnp.sum(jnp.where(keys > last, probabilities, 0), axis=-1)
    lowest_ids_first = jnp.broadcast_to(-jnp.arange(scores.shape[1], dtype=jnp.int32), scores.shape)
    last_of_equals = _key_reaching(
        missing, lowest_ids_first, jnp.where(keys == last, probabilities, 0)
    )
    return jnp.where(
        (keys > last) | ((keys == last) & (lowest_ids_first >= last_of_equals)), scores, _CUT
    )


def cut_atypical(scores: jax.Array, typical_p: jax.Array) -> jax.Array:
    """Keep the tokens whose surprisal is nearest to the entropy, until their total probability is
    `typical_p`.

    Tokens with the same distance as the last kept token are also kept. The neutral value is 1.
    """
    logprobs = jax.nn.log_softmax(scores, axis=-1)
    probabilities = jnp.exp(logprobs)
    terms = jnp.where(probabilities > 0, probabilities * logprobs, 0)
    # The most typical token has the greatest key.
    keys = _ordered_keys(-jnp.abs(logprobs - jnp.sum(terms, axis=-1, keepdims=True)))
    wanted = jnp.where(typical_p < 1, typical_p, jnp.inf)
    return jnp.where(keys >= _key_reaching(wanted, keys, probabilities), scores, _CUT)


def cut_below_min_p(scores: jax.Array, min_p: jax.Array) -> jax.Array:
    """Keep the tokens whose probability is at least `min_p` x (the probability of the best token).
    The neutral value is 0.
    """
    return jnp.where(
        scores < jnp.max(scores, axis=-1, keepdims=True) + jnp.log(min_p)[:, None], _CUT, scores
    )


def _key_reaching(wanted: jax.Array, keys: jax.Array, weights: jax.Array) -> jax.Array:
    """Find the greatest key, int32 [R, 1], such that the sum of the weights at this key and all
    greater keys is at least `wanted`.

    The result is the lowest key if the sum of all weights is less than `wanted`. `wanted` is
    float32 [R] and positive. `keys` is int32 [R, V], `weights` is float32 [R, V] and not negative.
    A sort would also find the key, but it takes minutes to compile a sort for a large vocabulary.
    Bisection needs at most 32 rounds. Bisection is exact, because all rounds add the weights in the
    same order. A sum that is large enough at one key is therefore large enough at every lower key.
    """

    def is_open(bounds: tuple[jax.Array, jax.Array]) -> jax.Array:
        lowest, highest = bounds
        return jnp.any(lowest < highest)

    def halve(bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        lowest, highest = bounds
        # This is the mean, rounded up. The sum of the bounds could overflow.
        middle = (lowest | highest) - ((lowest ^ highest) >> 1)
        reaches = (
            jnp.sum(jnp.where(keys >= middle, weights, 0), axis=-1, keepdims=True)
            >= wanted[:, None]
        )
        return jnp.where(reaches, middle, lowest), jnp.where(reaches, highest, middle - 1)

    bounds = jnp.min(keys, axis=-1, keepdims=True), jnp.max(keys, axis=-1, keepdims=True)
    greatest, _ = jax.lax.while_loop(is_open, halve, bounds)
    return greatest


def _ordered_keys(values: jax.Array) -> jax.Array:
    """Map float32 to int32 with the same order. Both zeros map to the same key."""
    bits = jax.lax.bitcast_convert_type(jnp.where(values == 0, 0, values), jnp.int32)
    # The bits of negative floats are in descending order.
    return jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)
