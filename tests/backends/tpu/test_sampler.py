"""The compiled sampler compared with the reference in `tgi.testing.sampling`."""

from __future__ import annotations

from functools import cache

import jax
import numpy as np
import pytest
from hypothesis import given, settings

from tests.backends.sampler_batches import (
    SCORE_KINDS,
    agrees,
    assert_between_references,
    batches,
    filter_scores,
    make_row,
    pack,
)
from tgi.testing.sampling import log_softmax
from tgi_tpu.sampling.logits_processors import cut_atypical, cut_below_top_k, cut_outside_nucleus
from tgi_tpu.sampling.parameters import bias_bucket, sampling_arrays
from tgi_tpu.sampling.sampler import (
    MAX_TOP_TOKENS,
    NOT_FINITE,
    NOTHING_ALLOWED,
    SampledRows,
    SamplingArrays,
    sample,
    score_tokens,
)

NUM_ROWS = 4  # every batch is padded to this, as in serving
HISTORY = 32


@cache
def sampler():
    return jax.jit(sample)


def padded(values, filler=0, dtype=np.int32):
    array = np.full(NUM_ROWS, filler, dtype)
    array[: len(values)] = values
    return array


def run(rows):
    """Sample tokens for the rows. Returns them on the host, and the updated history."""
    vocab_size = len(rows[0].logits)
    logits = np.zeros((NUM_ROWS, vocab_size), np.float32)
    history = np.zeros((NUM_ROWS + 1, HISTORY), np.int32)
    words = np.full((NUM_ROWS, -(-vocab_size // 32)), -1, np.int32)
    for i, one in enumerate(rows):
        logits[i], history[i, : one.length] = one.logits, one.tokens
        if one.allowed is not None:
            words[i] = pack(one.allowed)
    sampled = SampledRows(
        padded(range(len(rows)), NUM_ROWS),
        padded([one.length for one in rows]),
        padded([one.num_prompt_tokens for one in rows]),
        padded([one.draw for one in rows], dtype=np.float32),
    )
    parameters = SamplingArrays(**sampling_arrays([one.sampling for one in rows], NUM_ROWS))
    return jax.device_get(sampler()(logits, history, sampled, parameters, words))


def tops(result, i):
    count = int(result.top_counts[i])
    return dict(
        zip(
            result.top_ids[i, :count].tolist(), result.top_logprobs[i, :count].tolist(), strict=True
        )
    )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(batches())
def test_the_sampler_equals_the_reference(rows):
    result, history = run(rows)
    assert not result.problems.any()
    for i, one in enumerate(rows):
        token = int(result.tokens[i])
        assert agrees(one, token, float(result.logprobs[i]), tops(result, i)), (
            one,
            one.reference(),
        )
        assert history[i, : one.length + 1].tolist() == [*one.tokens.tolist(), token]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(batches())
def test_a_row_does_not_depend_on_other_rows(rows):
    together, _ = run(rows)
    for i, one in enumerate(rows):
        alone, _ = run([one])
        assert alone.tokens[0] == together.tokens[i]
        np.testing.assert_array_equal(alone.logprobs[0], together.logprobs[i])
        assert tops(alone, 0) == tops(together, i)


def test_greedy_takes_the_lowest_of_equals():
    assert run([make_row([0, 2, 2, 1]), make_row([3, 3, 3, 3])])[0].tokens[:2].tolist() == [1, 0]


def test_draws_at_the_limits():
    last = np.nextafter(np.float32(1), np.float32(0))
    rows = [
        make_row([1, 1, 1, 1], 0.0, greedy=False),
        make_row([1, 1, 1, 1], last, greedy=False),
        make_row([-9e9, 1, 1, -9e9], last, greedy=False),
        make_row([-np.inf, 1, 1, -np.inf], 0.0, greedy=False),
    ]
    assert run(rows)[0].tokens.tolist() == [0, 3, 2, 1]


def test_draws_spread_evenly_over_the_allowed_tokens():
    vocab_size = 4001
    allowed = np.arange(vocab_size) % 2 == 0
    draws = np.linspace(0, 1, 64, endpoint=False, dtype=np.float32)
    rows = [make_row(np.zeros(vocab_size), draw, allowed=allowed, greedy=False) for draw in draws]
    for first in range(0, len(rows), NUM_ROWS):
        tokens = run(rows[first : first + NUM_ROWS])[0].tokens
        assert not (tokens % 2).any()
        np.testing.assert_allclose(tokens / vocab_size, draws[first : first + NUM_ROWS], atol=2e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("greedy", [True, False])
def test_a_row_that_is_not_finite_fails_alone(bad, greedy):
    good = make_row([0, 1, 5, 2], 0.3, greedy=greedy, logprobs="processed", top_n_tokens=2)
    result, _ = run([good, make_row([0, bad, 1, 2], 0.3, greedy=greedy, logprobs="raw"), good])
    assert result.problems.tolist() == [0, NOT_FINITE, 0, 0]
    assert result.tokens[0] == result.tokens[2] == good.reference().token_id


def test_a_row_without_an_allowed_token_fails_alone():
    none = np.zeros(4, np.bool_)
    result, _ = run(
        [
            make_row([0, 1, 5, 2]),
            make_row([0, 1, 5, 2], allowed=none),
            make_row([0, 1, 5, 2], 0.5, allowed=none, greedy=False),
        ]
    )
    assert result.problems.tolist() == [0, NOTHING_ALLOWED, NOTHING_ALLOWED, 0]
    assert result.tokens[0] == 2


def test_top_tokens_have_a_maximum():
    result, _ = run([make_row(np.zeros(4001), logprobs="raw", top_n_tokens=1)])
    assert list(tops(result, 0)) == list(range(MAX_TOP_TOKENS))


def test_scores_are_raw_log_probabilities():
    logits = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
    targets = np.array([0, 6, 3], np.int32)
    expected = [
        log_softmax(logits[i].astype(np.float64))[target] for i, target in enumerate(targets)
    ]
    np.testing.assert_allclose(score_tokens(logits, targets), expected, atol=1e-6)


def test_many_biases_use_a_larger_bucket():
    few, many = (
        make_row(np.zeros(40), logit_bias=tuple((i % 40, 0.5) for i in range(count)))
        for count in (64, 65)
    )
    assert (bias_bucket([few.sampling]), bias_bucket([many.sampling])) == (64, 512)
    assert run([many])[0].tokens[0] == many.reference().token_id == 0


CUTS = {
    "top_k": (cut_below_top_k, [1, 40, 5000, 200_000]),
    "top_p": (cut_outside_nucleus, [0.05, 0.5, 0.95, 0.9999]),
    "typical_p": (cut_atypical, [0.05, 0.5, 0.95, 0.9999]),
}


@pytest.mark.parametrize("kind", SCORE_KINDS)
@pytest.mark.parametrize("name", CUTS)
def test_a_large_vocabulary_keeps_the_tokens_of_the_reference(name, kind):
    """The result is between the reference's results for slightly lower and higher thresholds."""
    cut, values = CUTS[name]
    scores = filter_scores(kind, len(values), 128_256)
    dtype = np.int32 if name == "top_k" else np.float32
    kept = np.asarray(jax.jit(cut)(scores, np.array(values, dtype))) > -np.inf
    assert_between_references(kept, scores, name, values)


def test_zeros_of_either_sign_are_equal():
    scores = np.array([[-0.0, 0.0, -1.0, 0.0, -0.0]], np.float32)
    best, nucleus = (
        cut_below_top_k(scores, np.array([1])),
        cut_outside_nucleus(scores, np.array([0.3], np.float32)),
    )
    assert np.flatnonzero(np.isfinite(best[0])).tolist() == [0, 1, 3, 4]
    assert np.flatnonzero(np.isfinite(nucleus[0])).tolist() == [0, 1]
