"""Random and hand-written batches for the samplers, and what a sampler returns for them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import msgspec
import numpy as np
from hypothesis import strategies as st

from tgi.backend import SamplingParams
from tgi.testing.sampling import apply_warpers, sample_row

# Kinds of scores for a filter, by `filter_scores`.
SCORE_KINDS = ("spread", "tied", "flat", "masked", "peaked")
MARGIN = 1e-6  # within this distance of a threshold, float32 and float64 may differ


def filter_scores(kind, num_rows, vocab_size):
    """Random scores of a kind in `SCORE_KINDS`, float32 [num_rows, vocab_size]."""
    rng = np.random.default_rng(len(kind))
    scores = rng.normal(scale=2.5, size=(num_rows, vocab_size)).astype(np.float32)
    special = {"tied": np.round(scores), "flat": np.zeros_like(scores), "peaked": scores * 20}
    scores = special.get(kind, scores)
    if kind == "masked":
        scores[:, np.arange(vocab_size) % 100 > 0] = -np.inf
    return scores


def assert_between_references(kept, scores, name, values):
    """Check that a filter keeps the tokens that the reference keeps for a value of the parameter
    `name` between a slightly lower and a slightly higher value. `kept` is bool [rows, vocab_size].
    """
    margin = 0 if name == "top_k" else MARGIN
    for ours, row_scores, value in zip(kept, scores.astype(np.float64), values, strict=True):
        fewer, more = (
            apply_warpers(row_scores, SamplingParams(**{name: v})) > -np.inf
            for v in (value - margin, value + margin)
        )
        assert (fewer <= ours).all()
        assert (ours <= more).all()


@dataclass(eq=False)
class Row:
    sampling: SamplingParams
    tokens: np.ndarray
    num_prompt_tokens: int
    logits: np.ndarray
    draw: float = 0.0
    allowed: np.ndarray | None = None

    @property
    def length(self):
        return len(self.tokens)

    def reference(self, params=None, draw=None):
        prompt, output = (
            self.tokens[: self.num_prompt_tokens],
            self.tokens[self.num_prompt_tokens :],
        )
        draw = self.draw if draw is None else draw
        return sample_row(
            self.logits, params or self.sampling, prompt, output, draw=draw, allowed=self.allowed
        )


def pack(allowed):
    padded = np.zeros(-(-len(allowed) // 32) * 32, np.bool_)
    padded[: len(allowed)] = allowed
    return np.packbits(padded, bitorder="little").view(np.int32)


def tops(result, row):
    stop = int(result.top_counts[: row + 1].sum())
    span = slice(stop - int(result.top_counts[row]), stop)
    return dict(zip(result.top_ids[span].tolist(), result.top_logprobs[span].tolist(), strict=True))


def hundredths(low, high):
    return st.integers(low, high).map(lambda n: n / 100)


fractions = hundredths(5, 95)


@st.composite
def params(draw, vocab_size):
    optional = lambda values, off: draw(st.one_of(st.just(off), values))  # noqa: E731
    return SamplingParams(
        greedy=draw(st.booleans()),
        watermark_gamma=optional(fractions, 0.0),
        watermark_delta=2.0,
        logit_bias=tuple(
            draw(
                st.lists(
                    st.tuples(st.integers(0, vocab_size - 1), hundredths(-500, 500)), max_size=3
                )
            )
        ),
        repetition_penalty=optional(hundredths(50, 200), 1.0),
        relative_frequency_penalty=optional(hundredths(-200, 200), 0.0),
        frequency_penalty=optional(hundredths(-200, 200), 0.0),
        presence_penalty=optional(hundredths(-200, 200), 0.0),
        temperature=optional(hundredths(25, 200), 1.0),
        top_k=optional(st.integers(1, vocab_size + 3), 0),
        top_p=optional(fractions, 1.0),
        typical_p=optional(fractions, 1.0),
        min_p=optional(fractions, 0.0),
        logprobs=draw(st.sampled_from(["none", "processed", "raw"])),
        top_n_tokens=draw(st.integers(0, vocab_size + 2)),
    )


@st.composite
def batches(draw):
    vocab_size = draw(st.sampled_from([3, 31, 40]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        logits = rng.normal(scale=draw(st.sampled_from([0.3, 3.0])), size=vocab_size).astype(
            np.float32
        )
        if draw(st.booleans()):
            logits = np.round(logits * 2) / 2  # many ties
        allowed = rng.random(vocab_size) < 0.7 if draw(st.booleans()) else None
        if allowed is not None:
            allowed[rng.integers(vocab_size)] = True
        tokens = rng.integers(0, vocab_size, draw(st.integers(1, 12))).astype(np.int32)
        uniform = np.float32(rng.integers(0, 2**24) / 2**24)
        rows.append(
            Row(
                draw(params(vocab_size)),
                tokens,
                draw(st.integers(1, len(tokens))),
                logits,
                uniform,
                allowed,
            )
        )
    return rows


def nearby(params):
    """The same parameters with every threshold slightly decreased or increased."""
    for steps in itertools.product((-MARGIN, 0.0, MARGIN), repeat=3):
        top_p, typical_p, min_p = (
            value if value == off else value + step
            for value, off, step in zip(
                (params.top_p, params.typical_p, params.min_p), (1, 1, 0), steps, strict=True
            )
        )
        yield msgspec.structs.replace(params, top_p=top_p, typical_p=typical_p, min_p=min_p)


def agrees(row, token, logprob, top):
    def same(reference):
        if reference.token_id != token:
            return False
        if reference.logprob is None:
            return math.isnan(logprob) and not top
        close = [
            math.isclose(top.get(i, math.nan), value, abs_tol=1e-4) for i, value in reference.top
        ]
        return (
            math.isclose(reference.logprob, logprob, abs_tol=1e-4)
            and len(top) == len(close)
            and all(close)
        )

    draws = (row.draw, max(row.draw - 2 * MARGIN, 0.0), row.draw + 2 * MARGIN)
    return any(
        same(row.reference(p, draw))
        for draw in draws
        for p in (row.sampling, *nearby(row.sampling))
    )


def make_row(logits, draw=0.0, tokens=(0,), num_prompt_tokens=1, allowed=None, **params):
    logits = np.array(logits, np.float32)
    return Row(
        SamplingParams(**params),
        np.array(tokens, np.int32),
        num_prompt_tokens,
        logits,
        draw,
        allowed,
    )
