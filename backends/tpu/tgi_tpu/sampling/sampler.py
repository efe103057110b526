"""Samples one token per row on the device, with the semantics of `tgi.testing.sampling`.

One program handles every mix of parameters. A processor that no row needs is skipped at run time,
so that greedy rows need only one argmax. No row reads data of another row, so a row's result does
not depend on the other rows of the batch. Shapes: R rows, V tokens in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import jax
import jax.numpy as jnp

from tgi_tpu.sampling.logits_processors import (
    allowed_tokens,
    count_tokens,
    cut_atypical,
    cut_below_min_p,
    cut_below_top_k,
    cut_outside_nucleus,
    favour_green_tokens,
    penalize,
)

__all__ = [
    "MAX_TOP_N",
    "MAX_TOP_TOKENS",
    "NOTHING_ALLOWED",
    "NOT_FINITE",
    "NO_LOGPROBS",
    "PROCESSED_LOGPROBS",
    "RAW_LOGPROBS",
    "SampledRows",
    "SampledTokens",
    "SamplingArrays",
    "sample",
    "score_prompt_tokens",
    "score_tokens",
]

MAX_TOP_TOKENS = 64
"""Maximum number of top tokens of a row, including tokens with the same score as the last one."""

MAX_TOP_N = MAX_TOP_TOKENS // 2
"""Maximum number of top tokens that a request may ask for."""

NO_LOGPROBS, PROCESSED_LOGPROBS, RAW_LOGPROBS = 0, 1, 2
"""Values of `SamplingArrays.logprobs`."""

NOT_FINITE, NOTHING_ALLOWED = 1, 2
"""Values of `SampledTokens.problems`. 0 means that there is no problem."""


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SampledRows:
    """The rows of one step that sample a token.

    Padding has the last row of the history and length 0.
    """

    history_rows: jax.Array  # int32 [R]
    lengths: jax.Array  # int32 [R], number of prompt and output ids before the sampled one
    num_prompt_tokens: jax.Array  # int32 [R]
    draws: jax.Array  # float32 [R], in [0, 1)


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SamplingArrays:
    """The `SamplingParams` of the rows, [R] each, with neutral values as padding.

    The logit biases of all rows are concatenated to [E]. Arrays are float32 unless stated.
    """

    greedy: jax.Array  # bool
    watermark_last_green: jax.Array  # uint32, ceil(gamma * 2^32) - 1
    watermark_delta: jax.Array  # 0 = no watermark
    repetition_penalty: jax.Array
    relative_frequency_penalty: jax.Array
    frequency_penalty: jax.Array
    presence_penalty: jax.Array
    temperature: jax.Array
    top_k: jax.Array  # int32
    top_p: jax.Array
    typical_p: jax.Array
    min_p: jax.Array
    logprobs: jax.Array  # int32
    top_n_tokens: jax.Array  # int32
    bias_rows: jax.Array  # int32 [E], R for padding
    bias_tokens: jax.Array  # int32 [E]
    bias_values: jax.Array  # [E]


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SampledTokens:
    """One sampled token per row.

    The first `top_counts` of a row's top tokens are valid. They are ordered by probability, then by
    id.
    """

    tokens: jax.Array  # int32 [R]; undefined for rows with a problem
    logprobs: jax.Array  # float32 [R]; NaN if not requested
    problems: jax.Array  # int32 [R]
    top_counts: jax.Array  # int32 [R]
    top_ids: jax.Array  # int32 [R, K]
    top_logprobs: jax.Array  # float32 [R, K]


def sample(
    logits: jax.Array,  # float32 [R, V]
    history: jax.Array,  # int32 [H, L], the token ids of all live sequences
    rows: SampledRows,
    parameters: SamplingArrays,
    mask_words: jax.Array,  # int32 [R, W], the allowed tokens as bits
) -> tuple[SampledTokens, jax.Array]:
    """Sample a token for each row and write it to the history. Returns tokens and history."""
    scores = _before_warpers(logits, history, rows, parameters, mask_words)
    drawn = ~parameters.greedy
    scores_drawn = _if_any(drawn, lambda: _warp(scores, parameters), scores)
    tokens = _if_any(drawn, lambda: _draw(scores_drawn, rows.draws), jnp.zeros_like(rows.lengths))
    tokens = jnp.where(drawn, tokens, jnp.argmax(scores, axis=-1).astype(jnp.int32))
    highest = jnp.max(logits, axis=-1)  # NaN if any logit is NaN
    is_empty = jnp.max(scores, axis=-1) == -jnp.inf
    problems = jnp.where(
        ~jnp.isfinite(highest), NOT_FINITE, jnp.where(is_empty, NOTHING_ALLOWED, 0)
    ).astype(jnp.int32)
    final_scores = jnp.where(drawn[:, None], scores_drawn, scores)
    sampled = _report(logits, final_scores, tokens, problems, parameters)
    return sampled, history.at[rows.history_rows, rows.lengths].set(tokens)


def score_tokens(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Compute the raw log probabilities, float32 [R], of `targets` (int32 [R])."""
    chosen = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def score_prompt_tokens(
    logits: jax.Array, targets: jax.Array, num_tops: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Compute the raw log probabilities, float32 [R], of `targets` (int32 [R]), and the most likely
    tokens of each row in descending order: ids int32 [R, K] and log probabilities float32 [R, K].

    K is `MAX_TOP_N`, or V if that is smaller. The caller reads the first `num_tops` of the K tokens
    (an int32 scalar). If `num_tops` is 0, the tokens are not computed.
    """
    count = min(MAX_TOP_N, logits.shape[1])
    # Both results use the same array, so a target and a top token with the same id are equal.
    normalizer = jax.nn.logsumexp(logits, axis=-1, keepdims=True)

    def best() -> tuple[jax.Array, jax.Array]:
        values, ids = jax.lax.top_k(logits, count)
        return ids.astype(jnp.int32), values - normalizer

    def none() -> tuple[jax.Array, jax.Array]:
        shape = (logits.shape[0], count)
        return jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)

    chosen = jnp.take_along_axis(logits, targets[:, None], axis=-1) - normalizer
    top_ids, top_logprobs = jax.lax.cond(num_tops > 0, best, none)
    return chosen[:, 0], top_ids, top_logprobs


def _if_any(asks: jax.Array, process: Callable[[], jax.Array], otherwise: jax.Array) -> jax.Array:
    """Return the result of `process` if at least one row needs it, otherwise `otherwise`. `process`
    is computed only if its result is needed.

    The two arrays have equal shapes.
    """
    chosen: jax.Array = jax.lax.cond(jnp.any(asks), process, lambda: otherwise)
    return chosen


def _before_warpers(
    logits: jax.Array,
    history: jax.Array,
    rows: SampledRows,
    parameters: SamplingArrays,
    mask_words: jax.Array,
) -> jax.Array:
    """Compute the scores after watermark, bias, penalties and mask."""
    p, vocab_size = parameters, logits.shape[1]
    previous = history[rows.history_rows, jnp.maximum(rows.lengths - 1, 0)]
    scores = _if_any(
        p.watermark_delta != 0,
        lambda: favour_green_tokens(logits, previous, p.watermark_last_green, p.watermark_delta),
        logits,
    )
    biased = scores
    scores = _if_any(
        p.bias_rows < logits.shape[0],
        lambda: biased.at[p.bias_rows, p.bias_tokens].add(p.bias_values, mode="drop"),
        biased,
    )
    unpenalized = scores
    is_penalized = (p.repetition_penalty != 1) | (p.relative_frequency_penalty != 0)
    is_penalized |= (p.frequency_penalty != 0) | (p.presence_penalty != 0)
    scores = _if_any(is_penalized, lambda: _penalized(unpenalized, history, rows, p), unpenalized)
    unmasked = scores
    return _if_any(
        jnp.any(mask_words != -1, axis=-1),
        lambda: jnp.where(allowed_tokens(mask_words, vocab_size), unmasked, -jnp.inf),
        unmasked,
    )


def _penalized(
    scores: jax.Array, history: jax.Array, rows: SampledRows, p: SamplingArrays
) -> jax.Array:
    own = history[rows.history_rows]
    places = jnp.arange(own.shape[1])
    is_context = places < rows.lengths[:, None]
    context = count_tokens(own, is_context, scores.shape[1])
    output = count_tokens(
        own, is_context & (places >= rows.num_prompt_tokens[:, None]), scores.shape[1]
    )
    return penalize(
        scores,
        context=context,
        output=output,
        lengths=rows.lengths,
        repetition=p.repetition_penalty,
        relative_frequency=p.relative_frequency_penalty,
        frequency=p.frequency_penalty,
        presence=p.presence_penalty,
    )


def _warp(scores: jax.Array, p: SamplingArrays) -> jax.Array:
    warm = scores / p.temperature[:, None]
    best = _if_any(p.top_k > 0, lambda: cut_below_top_k(warm, p.top_k), warm)
    nucleus = _if_any(p.top_p < 1, lambda: cut_outside_nucleus(best, p.top_p), best)
    typical = _if_any(p.typical_p < 1, lambda: cut_atypical(nucleus, p.typical_p), nucleus)
    return _if_any(p.min_p > 0, lambda: cut_below_min_p(typical, p.min_p), typical)


def _draw(scores: jax.Array, draws: jax.Array) -> jax.Array:
    """Return the first possible id whose cumulative probability exceeds draw x total, int32 [R].

    The cumulative sums are computed in parallel and may decrease by a rounding error. Tokens with
    probability 0 are therefore excluded explicitly. If no sum exceeds the draw, the last possible
    token is chosen.
    """
    probabilities = jax.nn.softmax(scores, axis=-1)
    cumulative = jnp.cumsum(probabilities, axis=-1)
    is_possible = probabilities > 0
    exceeds = is_possible & (cumulative > (draws * jnp.max(cumulative, axis=-1))[:, None])
    last = scores.shape[1] - 1 - jnp.argmax(is_possible[:, ::-1], axis=-1)
    return jnp.where(jnp.any(exceeds, axis=-1), jnp.argmax(exceeds, axis=-1), last).astype(
        jnp.int32
    )


def _report(
    logits: jax.Array,
    final_scores: jax.Array,
    tokens: jax.Array,
    problems: jax.Array,
    p: SamplingArrays,
) -> SampledTokens:
    is_wanted = p.logprobs != NO_LOGPROBS
    source = jnp.where((p.logprobs == PROCESSED_LOGPROBS)[:, None], final_scores, logits)
    chosen = _if_any(is_wanted, lambda: score_tokens(source, tokens), jnp.zeros_like(p.temperature))
    num_tops = min(MAX_TOP_TOKENS, logits.shape[1])

    def best() -> tuple[jax.Array, jax.Array, jax.Array]:
        values, ids = jax.lax.top_k(jax.nn.log_softmax(source, axis=-1), num_tops)
        last = jnp.take_along_axis(
            values, jnp.clip(p.top_n_tokens - 1, 0, num_tops - 1)[:, None], axis=-1
        )
        is_top = (
            (values >= last)
            & (values > -jnp.inf)
            & (p.top_n_tokens > 0)[:, None]
            & is_wanted[:, None]
        )
        return jnp.sum(is_top, axis=-1, dtype=jnp.int32), ids.astype(jnp.int32), values

    def none() -> tuple[jax.Array, jax.Array, jax.Array]:
        shape = (logits.shape[0], num_tops)
        return (
            jnp.zeros(shape[0], jnp.int32),
            jnp.zeros(shape, jnp.int32),
            jnp.zeros(shape, jnp.float32),
        )

    top_counts, top_ids, top_logprobs = jax.lax.cond(jnp.any(p.top_n_tokens > 0), best, none)
    return SampledTokens(
        tokens, jnp.where(is_wanted, chosen, jnp.nan), problems, top_counts, top_ids, top_logprobs
    )
