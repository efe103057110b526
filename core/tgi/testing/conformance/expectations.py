"""Compares sequences with the numpy reference, with a tolerance for rounding.

Two tokens may have almost equal logits. A token that differs from the reference's token is
therefore accepted if logits within the tolerance could lead to this token. The reference then
continues from the backend's token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tgi.backend import Agreement, Float32Array
from tgi.testing.conformance.live_sequence import LiveSequence, draw_of
from tgi.testing.conformance.models import TinyModel
from tgi.testing.conformance.require import CheckFailedError, require
from tgi.worker.sampling import (
    SampledToken,
    apply_penalties,
    apply_warpers,
    log_softmax,
    sample_row,
)

__all__ = ["allowance_of", "check_sequence", "check_sequences"]

_NUM_VARIANTS = 24
_LEAST_ALLOWANCE = 1e-3


def allowance_of(model: TinyModel, agreement: Agreement) -> float:
    """Return the maximum error of a log probability in the backend's dtype.

    If no logit has an error above e, no log probability has an error above 2 e.
    """
    return max(_LEAST_ALLOWANCE, 2 * model.tolerance(agreement.dtype))


def check_sequences(
    model: TinyModel, sequences: Sequence[LiveSequence], agreement: Agreement
) -> None:
    """Check each sequence."""
    for sequence in sequences:
        check_sequence(model, sequence, agreement)


def check_sequence(model: TinyModel, sequence: LiveSequence, agreement: Agreement) -> None:
    """Compare everything that a sequence received with the reference.

    Raises `CheckFailedError` at the first difference.
    """
    try:
        _compare(model, sequence, agreement)
    except CheckFailedError as difference:
        raise CheckFailedError(f"{difference} ({sequence.description})") from None


def _compare(model: TinyModel, sequence: LiveSequence, agreement: Agreement) -> None:
    require(not sequence.error, f"the sequence failed: {sequence.error}")
    tolerance, allowance = model.tolerance(agreement.dtype), allowance_of(model, agreement)
    known = (
        sequence.tokens[: max(1, len(sequence.tokens) - 1)] if sequence.output else sequence.prompt
    )
    # The logits of the prompt are compared only if prompt scores were requested.
    first = 0 if sequence.sampling.prompt_logprobs else len(sequence.prompt) - 1
    first += 0 if sequence.sampling.prompt_logprobs else sequence.num_given
    first = min(first, len(known) - 1)
    logits = model.logits(known, sequence.encoder_tokens, sequence.media, first=first)
    _check_prompt_scores(sequence, logits, agreement, allowance)
    for index in range(sequence.num_given, len(sequence.output)):
        before = _as_of(sequence, index)
        row = logits[len(sequence.prompt) + index - 1 - first]
        expected = _reference(row, before)
        token, place = sequence.output[index], index - sequence.num_given
        where = sequence.place_of(index)
        if token != expected.token_id:
            require(
                token in _near(row, before, tolerance),
                f"{where} is {token}, but the reference chose {expected.token_id}",
            )
        if sequence.sampling.logprobs != "none":
            try:
                _check_logprobs(sequence, place, row, before, allowance)
            except CheckFailedError as difference:
                raise CheckFailedError(f"{where}: {difference}") from None


def _as_of(sequence: LiveSequence, index: int) -> LiveSequence:
    """Return the sequence in its state before output token `index` was sampled."""
    return LiveSequence(
        sequence.handle,
        sequence.prompt,
        sequence.output[:index],
        sequence.sampling,
        sequence.seed,
        [],
        -1,
        allowed=sequence.allowed,
    )


def _reference(
    row: npt.NDArray[np.floating], before: LiveSequence, draw: float | None = None
) -> SampledToken:
    return sample_row(
        row,
        before.sampling,
        before.prompt,
        before.output,
        draw=draw_of(before) if draw is None else draw,
        allowed=_allowed(before, len(row)),
    )


def _allowed(sequence: LiveSequence, vocab_size: int) -> npt.NDArray[np.bool_] | None:
    tokens = sequence.allowed_at(len(sequence.output))
    if tokens is None:
        return None
    allowed = np.zeros(vocab_size, np.bool_)
    allowed[list(tokens)] = True
    return allowed


def _near(row: Float32Array, before: LiveSequence, tolerance: float) -> set[int]:
    """Return the tokens that can be sampled with logits within the tolerance."""
    noise = np.random.default_rng(0)
    draw = draw_of(before)
    near = set[int]()
    if before.sampling.greedy:
        scores = apply_penalties(
            row.astype(np.float64), before.sampling, before.prompt, before.output
        )
        allowed = _allowed(before, len(row))
        scores = scores if allowed is None else np.where(allowed, scores, -np.inf)
        return set(np.flatnonzero(scores >= scores.max() - 2 * tolerance).tolist())
    for variant in range(_NUM_VARIANTS):
        moved = row + noise.uniform(-tolerance, tolerance, len(row))
        shifted = draw + (variant % 3 - 1) * tolerance
        near.add(_reference(moved, before, min(max(shifted, 0.0), 1 - 2**-24)).token_id)
    return near


def _check_logprobs(
    sequence: LiveSequence, place: int, row: Float32Array, before: LiveSequence, allowance: float
) -> None:
    scores = row.astype(np.float64)
    if sequence.sampling.logprobs == "processed":
        scores = apply_penalties(scores, before.sampling, before.prompt, before.output)
        allowed = _allowed(before, len(row))
        scores = scores if allowed is None else np.where(allowed, scores, -np.inf)
        scores = scores if before.sampling.greedy else apply_warpers(scores, before.sampling)
    expected = log_softmax(scores)
    token, actual = sequence.output[sequence.num_given + place], sequence.logprobs[place]
    # A low temperature amplifies errors. A token that top-k, top-p or typical sampling barely keeps
    # in the backend may have no probability in the reference.
    allowance *= max(1.0, 1 / before.sampling.temperature)
    is_near = math.isinf(expected[token]) or abs(actual - expected[token]) <= allowance
    require(
        is_near,
        f"token {token} has log probability {actual:.5f}, but the reference has"
        f" {expected[token]:.5f}",
    )
    if not sequence.sampling.top_n_tokens:
        require(not sequence.tops[place], "there are top tokens that were not requested")
    else:
        _check_tops(sequence.tops[place], expected, sequence.sampling.top_n_tokens, allowance)


def _check_tops(
    tops: list[tuple[int, float]], expected: npt.NDArray[np.float64], count: int, allowance: float
) -> None:
    possible = int(np.count_nonzero(expected > -np.inf))
    require(
        len(tops) >= min(count, possible - 1),
        f"there are {len(tops)} top tokens, but {count} were requested",
    )
    values = [value for _, value in tops]
    require(
        values == sorted(values, reverse=True), f"top tokens are not in descending order: {values}"
    )
    require(len({token for token, _ in tops}) == len(tops), "a top token occurs twice")
    for token, value in tops:
        is_near = math.isinf(expected[token]) or abs(value - expected[token]) <= allowance
        require(
            is_near,
            f"top token {token} has log probability {value:.5f}, but the reference has"
            f" {expected[token]:.5f}",
        )
    if count and tops:
        kth = np.sort(expected)[::-1][min(count, len(expected)) - 1]
        require(
            values[-1] >= kth - allowance, f"top token {tops[-1]} is not among the first {count}"
        )


def _check_prompt_scores(
    sequence: LiveSequence, logits: Float32Array, agreement: Agreement, allowance: float
) -> None:
    if not sequence.sampling.prompt_logprobs or not agreement.has("prompt_logprobs"):
        require(not sequence.prompt_scores, "there are prompt scores that were not requested")
        return
    positions = list(range(1, len(sequence.prompt)))
    require(
        sorted(sequence.prompt_scores) == positions,
        f"there are prompt scores only for positions {sorted(sequence.prompt_scores)}",
    )
    for position in positions:
        distribution = log_softmax(logits[position - 1].astype(np.float64))
        expected = distribution[sequence.prompt[position]]
        actual = sequence.prompt_scores[position]
        is_near = abs(actual - expected) <= allowance
        require(
            is_near,
            f"prompt score {position} is {actual:.5f}, but the reference has {expected:.5f}",
        )
        tops, count = sequence.prompt_tops[position], sequence.sampling.top_n_tokens
        require(
            len(tops) == min(count, len(distribution)),
            f"prompt position {position} has {len(tops)} top tokens, but {count} were requested",
        )
        try:
            _check_tops(tops, distribution, count, allowance)
        except CheckFailedError as difference:
            raise CheckFailedError(f"prompt position {position}: {difference}") from None
