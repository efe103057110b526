"""The numpy reference compared with `transformers`. Every parameter is drawn again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.backends.checkpoints import VARIANTS, save_variant
from tgi.architectures import ModelSpec, load_spec
from tgi.testing.reference.model import reference_logits
from tgi.testing.reference.weights import read_weights
from tgi.testing.tiny_models import FAMILIES, write_tiny_model

TOKEN_IDS = np.random.default_rng(0).integers(0, 101, 48).tolist()


@pytest.mark.parametrize("variant", VARIANTS)
def test_reference_equals_transformers(variant: str, tmp_path: Path) -> None:
    model = save_variant(variant, tmp_path)
    spec = load_spec(tmp_path)
    assert isinstance(spec, ModelSpec)

    logits = reference_logits(spec, read_weights(spec, tmp_path), TOKEN_IDS)

    with torch.no_grad():
        expected = model(torch.tensor([TOKEN_IDS])).logits[0].numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("variant", ["llama-biases", "qwen3-tied", "gpt2", "gpt_neox-sequential"])
def test_every_weight_matters(variant: str, tmp_path: Path) -> None:
    save_variant(variant, tmp_path)
    spec = load_spec(tmp_path)
    assert isinstance(spec, ModelSpec)
    weights = read_weights(spec, tmp_path)
    logits = reference_logits(spec, weights, TOKEN_IDS)

    for parameter in weights:
        if parameter.endswith("attention.k.bias") and spec.model_type == "gpt2":
            # Without rotary embedding, a key bias shifts all scores of a row equally, which a
            # softmax ignores.
            continue
        lost = weights | {parameter: np.zeros_like(weights[parameter])}
        assert np.abs(reference_logits(spec, lost, TOKEN_IDS) - logits).max() > 1e-3, parameter


@pytest.mark.parametrize("family", FAMILIES)
def test_tiny_model_is_readable_by_transformers(family: str, tmp_path: Path) -> None:
    spec = write_tiny_model(tmp_path, family)
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    token_ids = AutoTokenizer.from_pretrained(tmp_path)("A river 😀 flows.")["input_ids"]

    logits = reference_logits(spec, read_weights(spec, tmp_path), token_ids)

    with torch.no_grad():
        expected = model(torch.tensor([token_ids])).logits[0].numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)
