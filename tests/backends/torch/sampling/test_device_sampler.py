"""The sampler for devices compared with the reference in `tgi.testing.sampling`."""

from __future__ import annotations

import bisect

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from tests.backends.sampler_batches import (
    SCORE_KINDS,
    Row,
    agrees,
    assert_between_references,
    batches,
    filter_scores,
    make_row,
    tops,
)
from tests.backends.torch.sampling.device_batch import DeviceBatch, needed_stages, run
from tgi.backend import SamplingParams
from tgi.testing.sampling import green_tokens
from tgi.worker.step_output import NOT_FINITE, NOTHING_ALLOWED
from tgi_torch.sampling.device.filters import (
    cut_atypical,
    cut_below_top_k,
    cut_outside_nucleus,
    draw_tokens,
    ordered_keys,
)
from tgi_torch.sampling.device.host_inputs import HostInputs, SamplerStages
from tgi_torch.sampling.device.inputs import InputLayout
from tgi_torch.sampling.device.sampler import MAX_TOP_TOKENS, read_outputs

BUCKET = 6


def check(rows, result):
    assert not result.problems
    for i, row in enumerate(rows):
        token, logprob = int(result.tokens[i]), float(result.logprobs[i])
        assert agrees(row, token, logprob, tops(result, i)), (row, row.reference())


def same(result, other):
    assert result.problems == other.problems
    for ours, others in zip(result[:5], other[:5], strict=True):
        np.testing.assert_array_equal(ours, others)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(batches())
def test_the_sampler_equals_the_reference(rows):
    check(rows, run(rows, BUCKET))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(batches())
def test_parts_that_no_row_needs_change_nothing(rows):
    same(run(rows, BUCKET, needed_stages(rows)), run(rows, BUCKET))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(batches())
def test_a_row_does_not_depend_on_other_rows(rows):
    together = run(rows, BUCKET)
    for i, row in enumerate(rows):
        alone = run([row])
        assert alone.tokens[0] == together.tokens[i]
        np.testing.assert_array_equal(alone.logprobs[0], together.logprobs[i])
        assert tops(alone, 0) == tops(together, i)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(batches())
def test_late_masks_equal_masks_in_the_step(rows):
    same(run(rows, BUCKET, is_late=True), run(rows, BUCKET))


LARGE = 9001  # not a multiple of 32

SETTINGS = [
    {},
    # The log probabilities of other tokens exceed the precision of the comparison.
    {"temperature": 1e-40, "top_n_tokens": 1},
    {"temperature": 1e-3, "top_n_tokens": 1},
    {"temperature": 1e39, "top_n_tokens": 0},  # all log probabilities are equal in float64
    {"top_k": 1},
    {"top_k": 40, "top_p": 0.8, "temperature": 1.7},
    {"top_k": 900},
    {"top_k": 2**31 - 1, "top_n_tokens": 60},
    {"top_p": 0.05},
    {"top_p": 1e-30},
    {"top_p": 0.95, "temperature": 2.0},
    {"typical_p": 0.3},
    {"typical_p": 0.97},
    {"min_p": 0.02},
    {"min_p": 1.0},
    {"top_k": 500, "top_p": 0.9, "typical_p": 0.8, "min_p": 0.01, "temperature": 0.7},
    {"watermark_gamma": 0.5, "watermark_delta": 1.0, "repetition_penalty": 1.3, "top_p": 0.9},
    {"watermark_gamma": 1.0, "watermark_delta": 3.0, "greedy": True, "logprobs": "raw"},
    {
        "greedy": True,
        "repetition_penalty": 1.3,
        "relative_frequency_penalty": 2.0,
        "frequency_penalty": 0.4,
        "presence_penalty": 0.2,
        "logit_bias": ((8999, 3.0), (8999, -1.0), (0, 2.0)),
    },
    {"logprobs": "raw", "top_k": 3, "temperature": 0.5},
]


@pytest.mark.parametrize("kind", ["spread", "tied", "flat", "masked", "one", "signed zeros"])
def test_a_large_vocabulary_equals_the_reference(kind):
    rng = np.random.default_rng(len(kind))
    rows = []
    for given_settings in SETTINGS:
        logits = rng.normal(scale=2.5, size=LARGE).astype(np.float32)
        signs = np.where(logits < 0, np.float32(-0.0), np.float32(0.0))
        special = {"tied": np.round(logits), "flat": np.zeros_like(logits), "signed zeros": signs}
        allowed = {"masked": rng.random(LARGE) < 0.01, "one": np.arange(LARGE) == LARGE - 1}
        sampling = msgspec.structs.replace(
            SamplingParams(greedy=False, logprobs="processed", top_n_tokens=7), **given_settings
        )
        tokens = rng.integers(0, LARGE, 300).astype(np.int32)
        uniform = np.float32(rng.integers(0, 2**24) / 2**24)
        row = Row(sampling, tokens, 200, special.get(kind, logits), uniform, allowed.get(kind))
        rows.append(row)
    result = run(rows, len(rows) + 3)
    assert not result.problems
    for i, row in enumerate(rows):
        if len(row.reference().top) > MAX_TOP_TOKENS:
            row.sampling = msgspec.structs.replace(row.sampling, top_n_tokens=0)
            assert result.top_counts[i] == MAX_TOP_TOKENS
            found = {}
        else:
            found = tops(result, i)
        token, logprob = int(result.tokens[i]), float(result.logprobs[i])
        assert agrees(row, token, logprob, found), (row.sampling, row.reference())


CUTS = {
    "top_k": (cut_below_top_k, [1, 40, 5000, 200_000]),
    "top_p": (cut_outside_nucleus, [0.05, 0.5, 0.95, 0.9999]),
    "typical_p": (lambda scores, _, value: cut_atypical(scores, value), [0.05, 0.5, 0.95, 0.9999]),
}


@pytest.mark.parametrize("kind", SCORE_KINDS)
@pytest.mark.parametrize("name", CUTS)
def test_a_filter_keeps_the_tokens_of_the_reference(name, kind):
    """The result is between the reference's results for slightly lower and higher thresholds."""
    cut, values = CUTS[name]
    scores = filter_scores(kind, len(values), 32_003)
    tensor = torch.from_numpy(scores)
    column = torch.tensor(values).unsqueeze(-1)
    kept = cut(tensor, ordered_keys(tensor), column).numpy() > -np.inf
    assert_between_references(kept, scores, name, values)


def test_sums_of_weights_do_not_depend_on_the_order():
    """A permutation of the vocabulary permutes the result, bit by bit."""
    rng = np.random.default_rng(3)
    scores = torch.from_numpy(rng.normal(scale=3, size=(2, 5003)).astype(np.float32))
    order = torch.from_numpy(rng.permutation(5003))
    for name, (cut, values) in CUTS.items():
        value = torch.tensor(values[1:3]).unsqueeze(-1)
        ours = cut(scores, ordered_keys(scores), value)
        shuffled = scores[:, order]
        assert torch.equal(ours[:, order], cut(shuffled, ordered_keys(shuffled), value)), name


def test_the_watermark_has_the_exact_border_of_the_reference():
    """The smallest gamma with which token 0 is green is a multiple of 2^-32."""
    is_green = lambda count: green_tokens(1, 2, count / 2**32)[0]  # noqa: E731
    smallest = bisect.bisect_left(range(2**32), True, key=is_green)
    settings_of_row = {"watermark_delta": 5.0, "tokens": [1], "logprobs": "processed"}
    rows = [
        make_row([0, 1], watermark_gamma=count / 2**32, **settings_of_row)
        for count in (smallest - 1, smallest)
    ]
    result = run(rows)
    check(rows, result)
    assert [row.reference().token_id for row in rows] in ([1, 0], [1, 1])
    assert result.logprobs[0] != result.logprobs[1]


def test_greedy_selects_the_lowest_of_equals():
    assert run([make_row([0, 2, 2, 1]), make_row([3, 3, 3, 3])]).tokens.tolist() == [1, 0]


def test_draws_at_the_limits():
    last = np.nextafter(np.float32(1), np.float32(0))
    rows = [
        make_row([1, 1, 1, 1], 0.0, greedy=False),
        make_row([1, 1, 1, 1], last, greedy=False),
        make_row([-9e9, 1, 1, -9e9], last, greedy=False),
        make_row([-np.inf, 1, 1, -np.inf], 0.0, greedy=False),
    ]
    assert run(rows).tokens.tolist() == [0, 3, 2, 1]


@pytest.mark.parametrize("vocab_size", [6, 700, 1000, 9002])
def test_a_draw_that_equals_a_cumulative_probability_selects_the_next_token(vocab_size):
    """The comparison is exact, although the probabilities are rounded."""
    tokens = draw_tokens(torch.zeros(2, vocab_size), torch.tensor([[0.5], [0.25]]))
    assert tokens.tolist() == [vocab_size // 2, vocab_size // 4]


def test_draws_spread_evenly_over_the_allowed_tokens():
    scores = torch.zeros(64, 4001)
    scores[:, 1::2] = -torch.inf
    draws = torch.arange(64).unsqueeze(-1) / 64
    tokens = draw_tokens(scores, draws)
    assert not (tokens % 2).any()
    torch.testing.assert_close(tokens / 4001, draws.squeeze(-1), atol=1e-3, rtol=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("greedy", [True, False])
def test_a_row_that_is_not_finite_fails_alone(bad, greedy):
    good = make_row(
        [0, 1, 5, 2], 0.3, greedy=greedy, logprobs="processed", top_n_tokens=2, top_p=0.9
    )
    broken = make_row([0, bad, 1, 2], 0.3, greedy=greedy, logprobs="raw", top_p=0.9, top_k=2)
    result = run([good, broken, good], BUCKET)
    assert result.problems == {1: NOT_FINITE}
    for i in (0, 2):
        token, logprob = int(result.tokens[i]), float(result.logprobs[i])
        assert agrees(good, token, logprob, tops(result, i))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_mask_does_not_hide_a_logit_that_is_not_finite(bad):
    allowed = np.array([True, False, True])
    assert run([make_row([0, bad, 1], allowed=allowed)]).problems == {0: NOT_FINITE}


def test_scores_above_the_range_of_float32_fail_alone():
    overflow = make_row([1, 3e38, 2], tokens=[1], repetition_penalty=1e-3)
    assert run([make_row([0, 1, 2]), overflow]).problems == {1: NOT_FINITE}


def test_a_row_without_an_allowed_token_fails_alone():
    none = np.zeros(4, np.bool_)
    rows = [
        make_row([0, 1, 5, 2]),
        make_row([0, 1, 5, 2], allowed=none),
        make_row([0, 1, 5, 2], 0.5, allowed=none, greedy=False, top_p=0.5, typical_p=0.5),
        make_row([-np.inf] * 4),
    ]
    result = run(rows, BUCKET)
    assert result.problems == dict.fromkeys([1, 2, 3], NOTHING_ALLOWED)
    assert result.tokens[0] == 2


def test_top_tokens_have_a_maximum_and_begin_with_the_lowest_ids():
    result = run([make_row(np.zeros(4001), logprobs="raw", top_n_tokens=1)])
    assert result.top_ids.tolist() == list(range(MAX_TOP_TOKENS))


def test_padded_rows_and_rows_without_penalties_leave_the_counts_unchanged():
    rows = [make_row([0, 1, 2], tokens=[1, 2], frequency_penalty=1.0), make_row([3, 0, 0])]
    batch = DeviceBatch(4, 3)
    batch.host.write_rows([row.sampling for row in rows], [2, batch.counts.spare_slot], 4)
    batch.counts.start(2, rows[0].tokens, 1)
    batch.prepare(rows)
    token = int(batch.sample().tokens[0])
    context = np.zeros((5, 3), int)
    output = np.zeros((5, 3), int)
    np.add.at(context, (2, [1, 2, token]), 1)
    np.add.at(output, (2, [2, token]), 1)
    assert batch.counts.context.tolist() == context.tolist()
    assert batch.counts.output.tolist() == output.tolist()


def test_penalties_count_the_tokens_of_earlier_steps():
    penalties = {"repetition_penalty": 1.2, "frequency_penalty": 0.7, "presence_penalty": 0.4}
    rng = np.random.default_rng(5)
    rows = [
        make_row(np.zeros(9), tokens=[3, 4, 4], num_prompt_tokens=2, **penalties),
        make_row(np.zeros(9), tokens=[1], relative_frequency_penalty=6.0, logprobs="processed"),
    ]
    batch = DeviceBatch(3, 9)
    batch.join(rows)
    for _ in range(30):
        for row in rows:
            row.logits = rng.normal(size=9).astype(np.float32)
        batch.prepare(rows)
        result = read_outputs(batch.sample().packed.numpy(), len(rows))
        check(rows, result)
        for row, token in zip(rows, result.tokens, strict=True):
            row.tokens = np.append(row.tokens, token)


def test_a_slot_is_reset_when_a_sequence_starts():
    batch = DeviceBatch(2, 5)
    batch.counts.start(1, np.array([0, 1, 2], np.int32), 1)
    batch.counts.start(1, np.array([4, 4, 3], np.int32), 2)
    assert batch.counts.context[1].tolist() == [0, 0, 0, 1, 2]
    assert batch.counts.output[1].tolist() == [0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([SamplingParams()] * 3, "the layout has 2 rows, but the batch has 3"),
        ([SamplingParams(logit_bias=((0, 1.0), (1, 1.0)))], "1 logit biases, but the batch has 2"),
    ],
)
def test_a_batch_that_does_not_fit_is_rejected(params, message):
    with pytest.raises(ValueError, match=message):
        HostInputs(InputLayout(2, 8, 1)).write_rows(params, [0] * len(params), 0)


def test_greedy_rows_need_no_part():
    nothing = SamplerStages(*[False] * 11)
    assert SamplerStages.needed_by([SamplingParams(top_p=0.5)], is_masked=False) == nothing
    batch = DeviceBatch(2, 4)
    batch.join([make_row([0, 1, 5, 2])])
    batch.prepare([make_row([0, 1, 5, 2])])
    packed = batch.sample(nothing).packed
    assert packed.shape == (2, 4)
    assert read_outputs(packed.numpy(), 1).tokens.tolist() == [2]
