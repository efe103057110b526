"""The filters top-k, top-p and typical-p by bisection, and the choice of a token.

A sort is replaced by a search for a threshold. Probabilities are added as integers (fixed point).
The sum of integers does not depend on the order of the additions, so the results of a row depend
neither on the number of rows nor on the device's order of additions. Scores are float32 [R, V], and
the parameters are [R, 1]. Each function is the batched form of a function in
`tgi.testing.sampling`, which states the formula and its source. The neutral value of a parameter
leaves a row unchanged.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["cut_atypical", "cut_below_top_k", "cut_outside_nucleus", "draw_tokens", "ordered_keys"]

_CUT = float("-inf")
_ONE = 2.0**56  # the probability 1 in fixed point
_UNREACHABLE = 2**62  # above the sum of all weights of a row
_FRACTION_BITS = 30
_LOWEST_KEY = -(2**31)
_BITS_OF_KEY = (_LOWEST_KEY, *(2**bit for bit in range(30, -1, -1)))


def ordered_keys(values: Tensor) -> Tensor:
    """Map float32 to int32 with the same order. Both zeros map to the same key."""
    bits = torch.where(values == 0, 0.0, values).view(torch.int32)
    # The bits of negative floats are in descending order.
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def cut_below_top_k(scores: Tensor, keys: Tensor, top_k: Tensor) -> Tensor:
    """Keep the `top_k` (int32) best tokens, and all tokens with the same score as the last of these
    tokens. The neutral value is 0.

    `keys` are the keys of the scores.
    """
    wanted = torch.where(top_k > 0, top_k.long(), _UNREACHABLE)
    last = _key_reaching(wanted, keys, lambda reached: reached.sum(-1, keepdim=True))
    return torch.where(keys >= last, scores, _CUT)


def cut_outside_nucleus(scores: Tensor, keys: Tensor, top_p: Tensor) -> Tensor:
    """Keep each token unless the tokens before it already have a total probability of `top_p`.

    Tokens are ordered by key, and tokens with equal keys are ordered by id. This is equivalent to
    TGI's rule: in ascending order, tokens are excluded while the cumulative probability is at most
    1 - top_p. The neutral value is 1. Tokens that are already excluded may have any key, because
    their probability is 0.
    """
    weights = _fixed(scores.softmax(-1), _ONE)
    wanted = _wanted_weight(top_p, weights)
    last = _key_reaching(wanted, keys, lambda reached: _sum_where(reached, weights))
    missing = wanted - _sum_where(keys > last, weights)
    is_last = keys == last
    # All tokens with this key have the same weight.
    weight = torch.where(is_last, weights, 0).amax(-1, keepdim=True)
    num_last = (missing + weight - 1).div(weight.clamp(min=1), rounding_mode="floor")
    place = is_last.cumsum(-1, dtype=torch.int32)
    return torch.where((keys > last) | (is_last & (place <= num_last)), scores, _CUT)


def cut_atypical(scores: Tensor, typical_p: Tensor) -> Tensor:
    """Keep the tokens whose surprisal is nearest to the entropy, until their total probability is
    `typical_p`.

    Tokens with the same distance as the last kept token are also kept. The neutral value is 1.
    """
    logprobs = scores.log_softmax(-1)
    probabilities = logprobs.exp()
    weights = _fixed(probabilities, _ONE)
    terms = torch.where(probabilities > 0, -probabilities * logprobs, 0.0)
    entropy = _fixed(terms, _ONE).sum(-1, keepdim=True).float() / _ONE
    # The most typical token has the greatest key.
    keys = ordered_keys(-(logprobs + entropy).abs())
    wanted = _wanted_weight(typical_p, weights)
    last = _key_reaching(wanted, keys, lambda reached: _sum_where(reached, weights))
    return torch.where(keys >= last, scores, _CUT)


def draw_tokens(scores: Tensor, draws: Tensor) -> Tensor:
    """Return the first id whose cumulative probability exceeds draw x total, int64 [R].

    `draws` is float32 [R, 1] in [0, 1). The probability of the id is positive. The id of a row
    without a finite score is undefined, but it is in the vocabulary.
    """
    cumulative = _fixed(scores.softmax(-1), _ONE).cumsum(-1)
    threshold = _share(draws, cumulative.narrow(-1, scores.shape[-1] - 1, 1))
    tokens = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
    return tokens.clamp(max=scores.shape[-1] - 1)


def _key_reaching(wanted: Tensor, keys: Tensor, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """Find the greatest key, int32 [R, 1], such that the measure of this key and all greater keys
    is at least `wanted` (int64 [R, 1], at least 1).

    The result is below all keys if the measure of all keys is less than `wanted`. `measure` maps
    bool [R, V] to int64 [R, 1]. Each round of the bisection determines one bit of the result,
    beginning with the sign. The number of rounds is constant, so that the host reads no value.
    """
    greatest = torch.full_like(wanted, _LOWEST_KEY, dtype=torch.int32)
    for bit in _BITS_OF_KEY:
        higher = greatest ^ bit
        greatest = torch.where(measure(keys >= higher) >= wanted, higher, greatest)
    return greatest


def _wanted_weight(probability: Tensor, weights: Tensor) -> Tensor:
    """Convert a parameter to a sum of weights, int64 [R, 1], of at least 1.

    The sum of all weights is the probability 1, so that a rounding error of the softmax's
    denominator has no effect.
    """
    share = _share(probability, weights.sum(-1, keepdim=True))
    return torch.where(probability < 1, share.clamp(min=1), _UNREACHABLE)


def _share(fraction: Tensor, total: Tensor) -> Tensor:
    """Return fraction x total, rounded down, int64. The fraction has a precision of 30 bits."""
    factor = _fixed(fraction, 2.0**_FRACTION_BITS)
    # The total is split into two parts, because the product has up to 87 bits.
    high, low = total >> _FRACTION_BITS, total & (2**_FRACTION_BITS - 1)
    share: Tensor = factor * high + (factor * low >> _FRACTION_BITS)
    return share


def _sum_where(condition: Tensor, weights: Tensor) -> Tensor:
    return torch.where(condition, weights, 0).sum(-1, keepdim=True)


def _fixed(values: Tensor, scale: float) -> Tensor:
    """Convert non-negative values to integers in units of 1 / `scale`, int64. NaN becomes 0."""
    return torch.where(values > 0, values * scale, 0.0).long()
