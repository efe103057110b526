"""The detector finds the watermark of the sampling reference, and none in a text without it."""

import numpy as np
import pytest

from tgi.backend import SamplingParams
from tgi.testing.sampling import sample_row
from tgi.testing.watermark import detect_watermark

VOCAB_SIZE = 64
PROMPT = [3, 5]


def generate(gamma, delta, num_tokens=200):
    random = np.random.default_rng(0)
    params = SamplingParams(greedy=False, watermark_gamma=gamma, watermark_delta=delta)
    output = []
    for _ in range(num_tokens):
        logits = random.normal(size=VOCAB_SIZE)
        output.append(sample_row(logits, params, PROMPT, output, draw=random.random()).token_id)
    return PROMPT + output


@pytest.mark.parametrize("gamma", [0.25, 0.5])
def test_a_watermark_is_found(gamma):
    evidence = detect_watermark(generate(gamma, 2.0), len(PROMPT), VOCAB_SIZE, gamma)
    assert evidence.num_tokens == 200
    assert evidence.green_share > gamma
    assert evidence.z_score > 4


def test_no_watermark_is_found_in_a_plain_text():
    evidence = detect_watermark(generate(0.0, 0.0), len(PROMPT), VOCAB_SIZE)
    assert abs(evidence.z_score) < 4


def test_no_watermark_is_found_in_shifted_tokens():
    token_ids = generate(0.25, 2.0)
    right = detect_watermark(token_ids, len(PROMPT), VOCAB_SIZE, 0.25)
    shifted = detect_watermark([token + 1 for token in token_ids], len(PROMPT), VOCAB_SIZE, 0.25)
    assert shifted.z_score < 4 < right.z_score


@pytest.mark.parametrize("num_prompt_tokens", [0, 2, 3])
def test_a_prompt_and_an_output_are_required(num_prompt_tokens):
    with pytest.raises(ValueError, match="a prompt and an output are needed"):
        detect_watermark(PROMPT, num_prompt_tokens, VOCAB_SIZE)
