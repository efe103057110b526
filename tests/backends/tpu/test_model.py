"""The logits of every family compared with the numpy reference.

Steps contain whole prompts, prefill chunks and decode rows of several sequences.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from tests.backends.tpu.specs import COVERED, OTHERS, REFUSED, spec_of
from tests.backends.tpu.stepping import Runner, Sequence, draw_weights, parameters_of
from tgi.architectures import GenericSpec
from tgi.testing.reference.model import reference_logits
from tgi_tpu.coverage import unsupported

TOLERANCE = 1e-4


def check_logits(variant: str) -> None:
    """Run a prompt in one step, a prompt in two chunks, and decode steps of both.

    Their blocks are scattered, and the rest of the cache is NaN.
    """
    spec = spec_of(variant)
    assert unsupported(spec) is None
    weights = draw_weights(spec)
    runner = Runner(spec, parameters_of(spec, weights))
    rng = random.Random(variant)
    blocks = rng.sample(range(1, 40), 14)
    whole = Sequence([rng.randrange(101) for _ in range(15)], blocks[:5])
    parts = Sequence([rng.randrange(101) for _ in range(26)], blocks[5:12])
    one = Sequence([7], blocks[12:13])
    for work in (
        [(whole, 11), (parts, 9), (one, 1)],
        [(parts, 16), (whole, 1)],
        [(whole, 1), (parts, 1)],
        [(whole, 2)],
    ):
        runner.step(work)
    for sequence in (whole, parts, one):
        expected = reference_logits(spec, weights, sequence.token_ids)
        assert len(sequence.logits) == len(expected)
        assert np.abs(np.stack(sequence.logits) - expected).max() < TOLERANCE * max(
            1, np.abs(expected).max()
        )


@pytest.mark.parametrize("variant", COVERED)
def test_logits(variant: str) -> None:
    check_logits(variant)


@pytest.mark.long
@pytest.mark.parametrize("variant", OTHERS)
def test_logits_of_the_other_variants(variant: str) -> None:
    check_logits(variant)


@pytest.mark.parametrize("variant", REFUSED)
def test_unsupported_models_are_rejected_with_a_reason(variant: str) -> None:
    assert unsupported(spec_of(variant)) == REFUSED[variant]


def test_an_unknown_family_is_rejected() -> None:
    sizes = {
        "vocab_size": 9,
        "hidden_size": 8,
        "num_layers": 1,
        "num_kv_heads": 1,
        "head_dim": 8,
        "max_positions": 16,
    }
    assert (
        unsupported(GenericSpec(model_type="novel", config={}, **sizes))
        == "the architecture novel is not known"
    )
