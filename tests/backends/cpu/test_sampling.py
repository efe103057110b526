"""The batched samplers compared with the reference in `tgi.testing.sampling`.

The reference itself is compared with results calculated by hand.
"""

from __future__ import annotations

import functools

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backends.sampler_batches import Row, agrees, batches, make_row, pack, tops
from tgi.backend import SamplingParams
from tgi.testing.sampling import choose, green_tokens, sample_row, unpack_mask
from tgi_cpu.native import load_library
from tgi_cpu.native_engine import Engine
from tgi_cpu.native_sampler import NativeSampler
from tgi_torch.sampling.protocols import TokenSampler
from tgi_torch.sampling.sampler import Sampler, SamplingKernels

torch.set_num_threads(1)


def torch_sampler(vocab_size: int) -> TokenSampler:
    return Sampler(vocab_size, torch.device("cpu"))


@functools.cache
def native_threads() -> Engine:
    library = load_library()
    if library is None or not library.is_supported:
        pytest.skip("the native kernels do not run on this machine")
    return Engine(library, num_threads=2, max_ops=1, scratch_floats=16)


def native_sampler(vocab_size: int) -> TokenSampler:
    return NativeSampler(native_threads(), vocab_size)


both = pytest.mark.parametrize("make", [torch_sampler, native_sampler], ids=["torch", "native"])


def run(rows, make=torch_sampler, sampler=None):
    sampler = sampler or make(len(rows[0].logits))
    constrained = [i for i, row in enumerate(rows) if row.allowed is not None]
    mask = (
        (constrained, np.stack([pack(rows[i].allowed) for i in constrained]))
        if constrained
        else None
    )
    logits = torch.from_numpy(np.stack([row.logits for row in rows]))
    before = logits.clone()
    result = sampler.sample(
        logits,
        rows,
        [row.length for row in rows],
        np.array([row.draw for row in rows], np.float32),
        mask,
    )
    assert torch.equal(logits.nan_to_num(), before.nan_to_num()), "the logits were changed"
    return result


@both
@settings(max_examples=250, deadline=None, derandomize=True)
@given(batches())
def test_sampler_equals_reference(make, rows):
    result = run(rows, make)
    assert not result.problems
    for i, row in enumerate(rows):
        assert agrees(row, int(result.tokens[i]), float(result.logprobs[i]), tops(result, i)), (
            row,
            row.reference(),
        )


LARGE = 9001  # not a multiple of the kernels' vectors, groups or chunks

SETTINGS = [
    {},
    {"temperature": 0.3},
    {"top_k": 1},
    {"top_k": 40, "top_p": 0.8},
    {"top_k": 900},  # more than the kernels have groups
    {"top_p": 0.05},
    {"top_p": 0.95, "temperature": 2.0},
    {"typical_p": 0.3},
    {"typical_p": 0.97},
    {"min_p": 0.02},
    {"top_k": 500, "top_p": 0.9, "typical_p": 0.8, "min_p": 0.01, "temperature": 0.7},
    {"watermark_gamma": 0.5, "watermark_delta": 1.0, "repetition_penalty": 1.3, "top_p": 0.9},
    {
        "greedy": True,
        "repetition_penalty": 1.3,
        "frequency_penalty": 0.4,
        "presence_penalty": 0.2,
        "logit_bias": ((8999, 3.0),),
    },
    {"logprobs": "raw", "top_k": 3, "temperature": 0.5},
]


@both
@pytest.mark.parametrize("kind", ["spread", "tied", "flat", "masked"])
def test_a_large_vocabulary_equals_reference(make, kind):
    rng = np.random.default_rng(len(kind))
    rows = []
    for given_settings in SETTINGS:
        logits = rng.normal(scale=2.5, size=LARGE).astype(np.float32)
        logits = {"tied": np.round(logits), "flat": np.zeros_like(logits)}.get(kind, logits)
        allowed = rng.random(LARGE) < 0.01 if kind == "masked" else None
        sampling = msgspec.structs.replace(
            SamplingParams(greedy=False, logprobs="processed", top_n_tokens=7), **given_settings
        )
        uniform = np.float32(rng.integers(0, 2**24) / 2**24)
        rows.append(
            Row(
                sampling,
                rng.integers(0, LARGE, 300).astype(np.int32),
                200,
                logits,
                uniform,
                allowed,
            )
        )
    result = run(rows, make)
    assert not result.problems
    for i, row in enumerate(rows):
        token, logprob = int(result.tokens[i]), float(result.logprobs[i])
        assert agrees(row, token, logprob, tops(result, i)), (
            row.sampling,
            token,
            row.reference().token_id,
        )


@both
@settings(max_examples=60, deadline=None, derandomize=True)
@given(batches())
def test_a_row_does_not_depend_on_other_rows(make, rows):
    together = run(rows, make)
    for i, row in enumerate(rows):
        alone = run([row], make)
        assert alone.tokens[0] == together.tokens[i]
        np.testing.assert_array_equal(alone.logprobs[0], together.logprobs[i])
        assert tops(alone, 0) == tops(together, i)


@both
@settings(max_examples=40, deadline=None, derandomize=True)
@given(batches(), st.integers(1, 5))
def test_counts_follow_a_growing_sequence(make, rows, steps):
    """A sampler that saw every step and a new one that sees only the last give the same result."""
    sampler = make(len(rows[0].logits))
    for _ in range(steps):
        kept = run(rows, sampler=sampler)
        for i, row in enumerate(rows):
            row.tokens = np.append(row.tokens, kept.tokens[i])
    kept, fresh = run(rows, sampler=sampler), run(rows, make)
    np.testing.assert_array_equal(kept.tokens, fresh.tokens)
    np.testing.assert_allclose(kept.logprobs, fresh.logprobs)


def test_greedy_takes_the_lowest_of_equals():
    kernels = SamplingKernels(argmax=lambda s: torch.from_numpy(s.numpy().argmax(-1)))
    for sampler in (torch_sampler(4), native_sampler(4), Sampler(4, torch.device("cpu"), kernels)):
        assert run(
            [make_row([0, 2, 2, 1]), make_row([3, 3, 3, 3])], sampler=sampler
        ).tokens.tolist() == [
            1,
            0,
        ]


@both
def test_draws_at_the_limits(make):
    last = np.nextafter(np.float32(1), np.float32(0))
    rows = [
        make_row([1, 1, 1, 1], 0.0, greedy=False),
        make_row([1, 1, 1, 1], last, greedy=False),
        make_row([-9e9, 1, 1, -9e9], last, greedy=False),
    ]
    assert run(rows, make).tokens.tolist() == [0, 3, 2]
    assert run([make_row([-np.inf, 1, 1, -np.inf], 0.0, greedy=False)], make).tokens.tolist() == [1]


@both
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("greedy", [True, False])
def test_a_row_that_is_not_finite_fails_alone(make, bad, greedy):
    good = make_row([0, 1, 5, 2], 0.3, greedy=greedy, logprobs="processed", top_n_tokens=2)
    result = run([good, make_row([0, bad, 1, 2], 0.3, greedy=greedy, logprobs="raw"), good], make)
    assert list(result.problems) == [1]
    assert "NaN or infinite" in result.problems[1]
    assert result.tokens[0] == result.tokens[2] == good.reference().token_id
    with pytest.raises(ValueError, match="NaN"):
        make_row([0, bad, 1, 2]).reference()


@both
def test_a_row_without_an_allowed_token_fails_alone(make):
    none = np.zeros(4, np.bool_)
    result = run(
        [
            make_row([0, 1, 5, 2]),
            make_row([0, 1, 5, 2], allowed=none),
            make_row([0, 1, 5, 2], 0.5, allowed=none, greedy=False),
        ],
        make,
    )
    assert list(result.problems) == [1, 2]
    assert result.tokens[0] == 2


@both
def test_a_mask_that_leaves_one_token_forces_it(make):
    only = np.arange(40) == 37
    rng = np.random.default_rng(0)
    rows = [
        make_row(rng.normal(size=40), 0.5, allowed=only, greedy=greedy, top_k=2 * (not greedy))
        for greedy in (True, False)
    ]
    assert run(rows, make).tokens.tolist() == [37, 37]
    np.testing.assert_array_equal(unpack_mask(pack(only), 40), only)


def test_the_reference_against_results_by_hand():
    log = np.log
    probabilities = log([0.1, 0.2, 0.3, 0.4])

    def kept(**params):
        result = sample_row(
            probabilities,
            SamplingParams(greedy=False, logprobs="processed", top_n_tokens=4, **params),
            [0],
            [],
        )
        return sorted(token for token, _ in result.top)

    assert kept() == [0, 1, 2, 3]
    assert kept(top_k=2) == [2, 3]
    assert kept(top_p=0.65) == [2, 3]  # 0.1 and 0.1 + 0.2 are within 0.35
    assert kept(top_p=0.75) == [1, 2, 3]
    assert kept(top_p=0.01) == [3]
    assert kept(min_p=0.6) == [2, 3]
    assert kept(typical_p=0.25) == [2]  # entropy 1.28, -log 0.3 = 1.20 is nearest
    assert [choose(probabilities, u) for u in (0.0, 0.09, 0.11, 0.29, 0.31, 0.59, 0.61)] == [
        0,
        0,
        1,
        1,
        2,
        2,
        3,
    ]

    def scores(**params):
        result = sample_row(
            [2.0, -2.0, 1.0],
            SamplingParams(logprobs="processed", top_n_tokens=3, **params),
            [0, 1],
            [1],
        )
        values = dict(result.top)
        return [round(values[i] - values[2] + 1.0, 6) for i in range(3)]  # token 2 keeps its score

    assert scores(repetition_penalty=2.0) == [1.0, -4.0, 1.0]
    assert scores(relative_frequency_penalty=3.0) == [1.0, -4.0, 1.0]
    assert scores(frequency_penalty=1.5) == [2.0, -3.5, 1.0]
    assert scores(presence_penalty=0.5) == [2.0, -2.5, 1.0]
    assert scores(logit_bias=((0, 5.0),)) == [7.0, -2.0, 1.0]


def mix32(h):
    h = (h ^ (h >> 16)) * 0x85EBCA6B % 2**32
    h = (h ^ (h >> 13)) * 0xC2B2AE35 % 2**32
    return h ^ (h >> 16)


def test_green_tokens():
    assert mix32(1) == 0x514E28B7  # the published value of MurmurHash3
    for previous in (0, 1, 50256, 151642):
        expected = [
            mix32((previous * 15485863 + v * 0x9E3779B9) % 2**32) < 0.25 * 2**32 for v in range(500)
        ]
        assert green_tokens(previous, 500, 0.25).tolist() == expected
        assert 80 < sum(expected) < 170


@both
def test_top_tokens_include_ties_but_no_cut_tokens(make):
    result = run(
        [
            make_row([1, 3, 2, 2, 0], logprobs="raw", top_n_tokens=2),
            make_row(
                [1, 3, 2, 2, 0], 0.1, greedy=False, top_k=1, logprobs="processed", top_n_tokens=3
            ),
        ],
        make,
    )
    assert result.top_counts.tolist() == [3, 1]
    assert result.top_ids.tolist() == [1, 2, 3, 1]
    assert result.top_logprobs[3] == 0.0
