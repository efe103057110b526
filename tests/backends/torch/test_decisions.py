"""The specs in the decision pages, compared with `transformers`.

All tensors are compared, and logits if the numpy reference can compute them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    T5ForConditionalGeneration,
)

from tests.core.architectures.decisions import PAGES, run_page
from tgi.architectures.weight_map import placements, split, tensor_shapes
from tgi.testing.reference.model import reference_logits
from tgi.testing.reference.weights import read_weights

MODEL_TYPES = {page: page.split("-spec-")[1].replace("-", "_") for page in PAGES}
CASES = [(page, index) for page in PAGES for index in range(len(run_page(page)["CONFIGS"]))]
# t5 has two input texts, and transformers 5 writes mamba2's infinite limit in its own way. Other
# tests cover these families.
RUNNABLE = set(MODEL_TYPES.values()) - {"t5", "mamba2"}
TOKEN_IDS = np.random.default_rng(1).integers(0, 64, 24).tolist()


def save_model(
    model_type: str, overrides: dict[str, Any], path: Path
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Write a tiny checkpoint with newly drawn parameters. Returns the model and its config."""
    written = overrides | ({"decoder_start_token_id": 0} if model_type == "t5" else {})
    config = AutoConfig.for_model(model_type, **written)
    if model_type == "t5":
        model: PreTrainedModel = T5ForConditionalGeneration(config)
    else:
        # Falcon's eager attention adds ALiBi twice in transformers 5.23. gpt_oss has no sdpa.
        attention = "sdpa" if model_type == "falcon" else "eager"
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            center = 1.0 if parameter.dim() == 1 else 0.0
            parameter.copy_(center + 0.15 * torch.randn(parameter.shape, generator=generator))
    model.eval().save_pretrained(path)
    return model, config.to_dict() | json.loads((path / "config.json").read_text())


@pytest.mark.parametrize(("page", "index"), CASES)
def test_page_covers_every_tensor(page: str, index: int, tmp_path: Path) -> None:
    code = run_page(page)
    model, config = save_model(MODEL_TYPES[page], code["CONFIGS"][index], tmp_path)
    spec = code["spec"](config)
    shapes = tensor_shapes(spec)
    filled: dict[str, int] = dict.fromkeys(shapes, 0)

    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        for placement in placements(spec, list(file.keys())):
            for parameter, piece in split(file.get_tensor(placement.name), placement, spec).items():
                assert tuple(piece.shape) == shapes[parameter][placement.expert is not None :], (
                    parameter
                )
                filled[parameter] += piece.numel()

    assert filled == {parameter: np.prod(shape) for parameter, shape in shapes.items()}
    # The model's own parameters and persistent buffers, each counted once.
    assert sum(filled.values()) == sum(
        {t.data_ptr(): t.numel() for t in model.state_dict().values()}.values()
    )


@pytest.mark.parametrize(
    ("page", "index"), [case for case in CASES if MODEL_TYPES[case[0]] in RUNNABLE]
)
def test_page_computes_the_same(page: str, index: int, tmp_path: Path) -> None:
    code = run_page(page)
    model, config = save_model(MODEL_TYPES[page], code["CONFIGS"][index], tmp_path)
    spec = code["spec"](config)

    logits = reference_logits(spec, read_weights(spec, tmp_path), TOKEN_IDS)

    with torch.no_grad():
        expected = model(torch.tensor([TOKEN_IDS])).logits[0].numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)
