"""Logits processors: pure functions that change the scores of a batch before tokens are sampled.

Every function takes scores float32 [rows, vocab_size] and one parameter per row of shape [rows, 1],
and returns new scores. The score of an excluded token becomes -inf. Each function is the batched
form of a function in `tgi.testing.sampling`, which states the formula and its source. Results are
equal up to float32 rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = [
    "allowed_tokens",
    "cut_atypical",
    "cut_below_min_p",
    "cut_below_top_k",
    "cut_outside_nucleus",
    "favour_green_tokens",
    "penalize_repetition",
    "vocabulary_hash",
]

_HASH_KEY = 15485863
_GOLDEN = 0x9E3779B9
_MASK32 = 0xFFFFFFFF
_CUT = float("-inf")


def penalize_repetition(scores: Tensor, counts: Tensor, penalty: Tensor) -> Tensor:
    """Make every token with a count above 0 less likely.

    Negative scores are multiplied by `penalty`, and other scores are divided by `penalty`.
    """
    penalized = torch.where(scores < 0, scores * penalty, scores / penalty)
    return torch.where(counts > 0, penalized, scores)


def vocabulary_hash(vocab_size: int, device: torch.device) -> Tensor:
    """The part of the watermark's hash that depends only on the token.

    int64 [vocab_size], values below 2^32.
    """
    return torch.arange(vocab_size, dtype=torch.int64, device=device) * _GOLDEN & _MASK32


def favour_green_tokens(
    scores: Tensor, token_hash: Tensor, previous: Tensor, limit: Tensor, delta: Tensor
) -> Tensor:
    """Add `delta` to the tokens that are green after `previous` (int64 [rows, 1]).

    `limit` is ceil(gamma x 2^32), int64.
    """
    # Products wrap modulo 2^64, which does not change the low 32 bits.
    h = (previous * _HASH_KEY + token_hash) & _MASK32
    h = (h ^ (h >> 16)) * 0x85EBCA6B & _MASK32
    h = (h ^ (h >> 13)) * 0xC2B2AE35 & _MASK32
    h ^= h >> 16
    return torch.where(h < limit, scores + delta, scores)


def allowed_tokens(words: Tensor, vocab_size: int) -> Tensor:
    """Unpack the bits of masks int32 [rows, mask_width]. The lowest bit is the lowest id.

    Returns bool [rows, vocab_size].
    """
    bits = words.unsqueeze(-1) >> torch.arange(32, dtype=torch.int32, device=words.device)
    return (bits & 1).reshape(len(words), -1).narrow(-1, 0, vocab_size).bool()


def cut_below_top_k(scores: Tensor, top_k: Tensor) -> Tensor:
    """Keep the `top_k` (int64) best tokens, and all tokens with the same score as the last of these
    tokens.
    """
    num_wanted = top_k.clamp(max=scores.shape[-1])
    best = scores.topk(int(num_wanted.max()), dim=-1).values
    return torch.where(scores < best.gather(-1, num_wanted - 1), _CUT, scores)


def cut_outside_nucleus(scores: Tensor, top_p: Tensor, sort: Callable[[Tensor], Tensor]) -> Tensor:
    """Keep each token unless the tokens before it already have a total probability of `top_p`.

    Tokens are ordered by score, and tokens with equal scores are ordered by id. This is equivalent
    to TGI's rule: in ascending order, tokens are excluded while the cumulative probability is at
    most 1 - top_p. Only values are sorted, because devices order equal values differently. The
    position of a token is found by a search for its score in the sorted values.
    """
    descending = sort(scores.neg())  # negated, so that ascending order begins with the best score
    mass = descending.neg().softmax(-1).cumsum(-1)
    num_kept = (torch.searchsorted(mass, top_p) + 1).clamp_(max=scores.shape[-1])
    last = descending.gather(-1, num_kept - 1)
    kept = torch.where(scores < -last, _CUT, scores)
    num_surplus = torch.searchsorted(descending, last, right=True) - num_kept
    rows = num_surplus.squeeze(-1).nonzero().squeeze(-1)
    if len(rows):
        _cut_highest_ids(kept, rows, -last[rows], num_surplus[rows])
    return kept


def _cut_highest_ids(scores: Tensor, rows: Tensor, value: Tensor, count: Tensor) -> None:
    """In each of `rows`, exclude the `count` highest ids with the score `value`. `scores` is
    changed in place.
    """
    row, token = (scores[rows] == value).nonzero(as_tuple=True)
    # The number of tokens with this score in the row, from each id to the highest id.
    num_left = torch.searchsorted(row, row, right=True) - torch.arange(len(row), device=row.device)
    cut = num_left <= count.squeeze(-1)[row]
    scores[rows[row[cut]], token[cut]] = _CUT


def cut_atypical(scores: Tensor, typical_p: Tensor) -> Tensor:
    """Keep the tokens whose surprisal is nearest to the entropy, until their total probability is
    `typical_p`.

    Tokens with the same distance as the last kept token are also kept.
    """
    logprobs = scores.log_softmax(-1)
    probabilities = logprobs.exp()
    entropy = -(probabilities * logprobs).nansum(-1, keepdim=True)
    distance = (logprobs + entropy).abs()
    nearest, order = distance.sort(dim=-1, stable=True)
    mass = probabilities.gather(-1, order).cumsum(-1)
    num_below = (mass < typical_p).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
    return torch.where(distance > nearest.gather(-1, num_below), _CUT, scores)


def cut_below_min_p(scores: Tensor, min_p: Tensor) -> Tensor:
    """Keep the tokens whose probability is at least `min_p` x (the probability of the best
    token).
    """
    return torch.where(scores < scores.amax(-1, keepdim=True) + min_p.log(), _CUT, scores)
