"""What changes scores before a token is chosen: pure functions over a batch of rows.

Every function takes scores of shape [rows, vocab_size] (float32) and one parameter per row of shape
[rows, 1], and returns new scores. A token that is cut gets -inf. Each is the batched form of the
function in `tgi.testing.sampling` that names its formula and source, up to float32 rounding.
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
    """Push every token with a count above 0 away from being chosen: negative scores x penalty,
    others / penalty.
    """
    penalized = torch.where(scores < 0, scores * penalty, scores / penalty)
    return torch.where(counts > 0, penalized, scores)


def vocabulary_hash(vocab_size: int, device: torch.device) -> Tensor:
    """The part of the watermark's hash that depends on the token alone: int64 [vocab_size], values
    below 2^32.
    """
    return torch.arange(vocab_size, dtype=torch.int64, device=device) * _GOLDEN & _MASK32


def favour_green_tokens(
    scores: Tensor, token_hash: Tensor, previous: Tensor, limit: Tensor, delta: Tensor
) -> Tensor:
    """Add `delta` to the tokens that are green after `previous` (int64 [rows, 1]); `limit` =
    ceil(gamma x 2^32), int64.
    """
    h = (
        previous * _HASH_KEY + token_hash
    ) & _MASK32  # products wrap modulo 2^64, which leaves the low 32 bits right
    h = (h ^ (h >> 16)) * 0x85EBCA6B & _MASK32
    h = (h ^ (h >> 13)) * 0xC2B2AE35 & _MASK32
    h ^= h >> 16
    return torch.where(h < limit, scores + delta, scores)


def allowed_tokens(words: Tensor, vocab_size: int) -> Tensor:
    """Packed words int32 [rows, mask_width], lowest id in the lowest bit -> bool [rows,
    vocab_size].
    """
    bits = words.unsqueeze(-1) >> torch.arange(32, dtype=torch.int32, device=words.device)
    return (bits & 1).reshape(len(words), -1)[:, :vocab_size].bool()


def cut_below_top_k(scores: Tensor, top_k: Tensor) -> Tensor:
    """Keep the `top_k` (int64) best and the ties with the last of them."""
    num_wanted = top_k.clamp(max=scores.shape[-1])
    best = scores.topk(int(num_wanted.max()), dim=-1).values
    return torch.where(scores < best.gather(-1, num_wanted - 1), _CUT, scores)


def cut_outside_nucleus(scores: Tensor, top_p: Tensor, sort: Callable[[Tensor], Tensor]) -> Tensor:
    """Keep each token unless those before it hold `top_p` already; of equal scores the lower ids
    come first.

    This is TGI's rule read from the other end: ascending, cut what is cumulatively within 1 -
    top_p. Only values are sorted, so that the order in which a device's sort leaves ties has no
    influence; all else is looked up in the sorted values.
    """
    descending = sort(scores.neg())  # negated, so that ascending is best first
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
    """In each of `rows` cut the `count` highest ids among those that score `value`; in place."""
    row, token = (scores[rows] == value).nonzero(as_tuple=True)
    num_left = torch.searchsorted(row, row, right=True) - torch.arange(
        len(row), device=row.device
    )  # itself included
    cut = num_left <= count.squeeze(-1)[row]
    scores[rows[row[cut]], token[cut]] = _CUT


def cut_atypical(scores: Tensor, typical_p: Tensor) -> Tensor:
    """Keep the tokens whose surprise is nearest to the entropy until they hold `typical_p`, and
    ties with the last of them.
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
    """Keep the tokens that are at least `min_p` as likely as the best one."""
    return torch.where(scores < scores.amax(-1, keepdim=True) + min_p.log(), _CUT, scores)
