"""Reference implementation of sampling, one row at a time in float64. The conformance suite
compares every backend's sampler with it.

The processors of a row are applied in the order of the fields of `SamplingParams`. A grammar mask
is applied after the penalties and before the temperature. Processors before the mask are applied to
every row. Processors after the mask are not applied to greedy rows, because no token is drawn for
these rows.

The sources are:

* order and formulas: TGI 3 `utils/logits_process.py` and `utils/watermark.py` (flash models)
* frequency and presence penalties: the OpenAI API reference
* typical sampling: arXiv 2202.00666
* min-p: arXiv 2407.01082
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from tgi.backend.records import Int32Array, SamplingParams

__all__ = [
    "SampledToken",
    "apply_penalties",
    "apply_warpers",
    "best_tokens",
    "choose",
    "green_tokens",
    "log_softmax",
    "sample_row",
    "top_tokens",
    "unpack_mask",
]

Scores = npt.NDArray[np.float64]
Ids = Sequence[int] | npt.NDArray[np.int32]

_HASH_KEY = 15485863
_GOLDEN = 0x9E3779B9


@final
@dataclass(frozen=True)
class SampledToken:
    """One sampled token. If logprobs were not requested, `logprob` is None and `top` is empty."""

    token_id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]


def sample_row(
    logits: npt.NDArray[np.floating],  # [vocab_size]
    params: SamplingParams,
    prompt_ids: Ids,
    output_ids: Ids,
    *,
    draw: float = 0.0,
    allowed: npt.NDArray[np.bool_] | None = None,  # [vocab_size]
) -> SampledToken:
    """Sample a token from the logits of one row. Raises `ValueError` if the logits contain NaN or
    positive infinity, or if no token is allowed.
    """
    raw = np.asarray(logits, np.float64)
    if np.isnan(raw).any() or np.isposinf(raw).any():
        raise ValueError("the logits contain NaN or infinity")
    scores = apply_penalties(raw, params, prompt_ids, output_ids)
    if allowed is not None:
        scores = np.where(allowed, scores, -np.inf)
    if np.isneginf(scores).all():
        raise ValueError("no token is allowed")
    if not params.greedy:
        scores = apply_warpers(scores, params)
    token = int(np.argmax(scores)) if params.greedy else choose(scores, draw)
    if params.logprobs == "none":
        return SampledToken(token, None, ())
    logprobs = log_softmax(scores if params.logprobs == "processed" else raw)
    return SampledToken(token, float(logprobs[token]), top_tokens(logprobs, params.top_n_tokens))


def apply_penalties(
    scores: Scores, params: SamplingParams, prompt_ids: Ids, output_ids: Ids
) -> Scores:
    """Return the scores after watermark, logit bias and the four penalties."""
    scores = scores.copy()
    prompt, output = np.asarray(prompt_ids, np.int64), np.asarray(output_ids, np.int64)
    context = np.concatenate([prompt, output])
    if params.watermark_gamma > 0:
        green = green_tokens(int(context[-1]), len(scores), params.watermark_gamma)
        scores[green] += params.watermark_delta
    for token, bias in params.logit_bias:
        scores[token] += bias
    used = np.unique(context if params.repetition_penalty != 1 else context[:0])
    for token in used:
        penalty = params.repetition_penalty
        scores[token] = scores[token] * penalty if scores[token] < 0 else scores[token] / penalty
    used = np.unique(context if params.relative_frequency_penalty else context[:0])
    for token in used:
        scores[token] -= (
            params.relative_frequency_penalty * np.count_nonzero(context == token) / len(context)
        )
    is_penalized = params.frequency_penalty or params.presence_penalty
    used = np.unique(output if is_penalized else output[:0])
    for token in used:
        scores[token] -= params.frequency_penalty * np.count_nonzero(output == token)
        scores[token] -= params.presence_penalty
    return scores


def apply_warpers(scores: Scores, params: SamplingParams) -> Scores:
    """Return the scores after temperature, top-k, top-p, typical-p and min-p. The score of a
    removed token is -inf. At least one token remains.
    """
    scores = scores / params.temperature
    if params.top_k > 0:
        kth = np.sort(scores)[::-1][min(params.top_k, len(scores)) - 1]
        scores = np.where(scores < kth, -np.inf, scores)
    if params.top_p < 1:
        scores = _keep(scores, _nucleus(scores, params.top_p))
    if params.typical_p < 1:
        scores = _keep(scores, _typical(scores, params.typical_p))
    if params.min_p > 0:
        probabilities = np.exp(log_softmax(scores))
        scores = _keep(scores, probabilities >= params.min_p * probabilities.max())
    return scores


def choose(scores: Scores, draw: float) -> int:
    """Return the first id whose cumulative float32 probability exceeds `draw` times the total."""
    cumulative = np.cumsum(np.exp(log_softmax(scores)).astype(np.float32), dtype=np.float64).astype(
        np.float32
    )
    return int(np.argmax(cumulative > np.float32(draw) * cumulative[-1]))


def log_softmax(scores: Scores) -> Scores:
    """Return the log-softmax of `scores`. Scores of -inf remain -inf."""
    shifted = scores - scores.max()
    normalized: Scores = shifted - np.log(np.exp(shifted).sum())
    return normalized


def top_tokens(logprobs: Scores, count: int) -> tuple[tuple[int, float], ...]:
    """Return the `count` most likely tokens, in descending order of logprob and then in ascending
    order of id. All tokens with the same logprob as the last of these tokens are included too.
    Tokens with a logprob of -inf are omitted.
    """
    if count <= 0:
        return ()
    ids = best_tokens(logprobs, count)
    return tuple((int(i), float(logprobs[i])) for i in ids if logprobs[i] > -np.inf)


def best_tokens(logprobs: Scores, count: int) -> npt.NDArray[np.int64]:
    """Return the ids of the `count` most likely tokens, in descending order of logprob and then in
    ascending order of id. All tokens with the same logprob as the last of these tokens are included
    too. Tokens whose logprob is NaN follow all other tokens. `count` is at least 1.
    """
    place = max(len(logprobs) - count, 0)
    last = np.partition(logprobs, place)[place]
    kept = np.flatnonzero(~(logprobs < last))
    return kept[np.argsort(-logprobs[kept], kind="stable")]


def green_tokens(previous: int, vocab_size: int, gamma: float) -> npt.NDArray[np.bool_]:
    """Return a mask [vocab_size] of the tokens that the watermark favours after token `previous`.
    Token v is favoured after token p if mix32(p K + v G mod 2^32) < gamma 2^32. K is `_HASH_KEY`
    and G is `_GOLDEN`.
    """
    h = (
        np.uint64(previous * _HASH_KEY & 0xFFFFFFFF)
        + np.arange(vocab_size, dtype=np.uint64) * np.uint64(_GOLDEN)
    ).astype(np.uint32)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return h.astype(np.float64) < gamma * 2.0**32


def unpack_mask(words: Int32Array, vocab_size: int) -> npt.NDArray[np.bool_]:
    """Unpack one row of `GrammarMasks.words` to a mask [vocab_size] of the allowed tokens."""
    return np.unpackbits(words.view(np.uint8), bitorder="little")[:vocab_size].astype(np.bool_)


def _nucleus(scores: Scores, top_p: float) -> npt.NDArray[np.bool_]:
    """Return a mask of the tokens that top-p keeps. Tokens are removed in ascending order of score
    while the sum of the removed probabilities is at most 1 - top_p. If two scores are equal, the
    token with the higher id is removed first.
    """
    ascending = np.argsort(-scores, kind="stable")[::-1]
    removed = np.cumsum(np.exp(log_softmax(scores))[ascending]) <= 1 - top_p
    removed[-1] = False
    kept = np.ones(len(scores), np.bool_)
    kept[ascending[removed]] = False
    return kept


def _typical(scores: Scores, mass: float) -> npt.NDArray[np.bool_]:
    """Return a mask of the tokens that typical-p keeps. Tokens are added in ascending order of the
    distance between their information content and the entropy, until the sum of their probabilities
    is at least `mass`. Tokens with the same distance as the last added token are kept too.
    """
    logprobs = log_softmax(scores)
    probabilities = np.exp(logprobs)
    possible = probabilities > 0
    entropy = -np.sum(probabilities[possible] * logprobs[possible])
    distance = np.abs(-logprobs - entropy)
    order = np.argsort(distance, kind="stable")
    num_below = int(np.count_nonzero(np.cumsum(probabilities[order]) < mass))
    limit = distance[order[min(num_below, len(order) - 1)]]
    kept: npt.NDArray[np.bool_] = distance <= limit
    return kept


def _keep(scores: Scores, kept: npt.NDArray[np.bool_]) -> Scores:
    return np.where(kept, scores, -np.inf)
