"""Adapters in PEFT's format: the merged weights, and errors in a folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tgi.errors import ModelError
from tgi.testing.reference.weights import read_weights, tensor_names
from tgi.testing.tiny_adapters import merge_adapter, read_adapter, write_adapter
from tgi.testing.tiny_models import write_tiny_model

LAYER = "base_model.model.model.layers.1.self_attn.q_proj"
PARAMETER = "decoder.layers.1.attention.q.weight"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    return path, write_tiny_model(path)


@pytest.fixture
def adapter(model, tmp_path):
    path, spec = model
    return write_adapter(
        tmp_path / "adapter", spec, tensor_names(path), targets=("q_proj",), rank=4
    )


def change_config(adapter, **fields):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "scale"),
    [({}, 2.0), ({"lora_alpha": 3}, 0.75), ({"lora_alpha": 6, "use_rslora": True}, 3.0)],
)
def test_the_product_of_the_factors_is_added_only_to_its_layers(model, adapter, fields, scale):
    path, spec = model
    change_config(adapter, **fields)
    factors = load_file(adapter / "adapter_model.safetensors")
    before, after = (
        read_weights(spec, path),
        merge_adapter(spec, read_weights(spec, path), tensor_names(path), read_adapter(adapter)),
    )
    expected = scale * factors[f"{LAYER}.lora_B.weight"] @ factors[f"{LAYER}.lora_A.weight"]
    np.testing.assert_allclose(after[PARAMETER] - before[PARAMETER], expected, atol=1e-6)
    changed = {
        parameter for parameter in before if not np.array_equal(before[parameter], after[parameter])
    }
    assert changed == {PARAMETER, PARAMETER.replace("layers.1", "layers.0")}


def test_transposed_layers_are_merged(tmp_path):
    """GPT-2 stores its matrices as (in, out). The product of the factors is (out, in)."""
    spec = write_tiny_model(tmp_path / "model", "gpt2")
    names = tensor_names(tmp_path / "model")
    adapter = write_adapter(tmp_path / "adapter", spec, names, targets=("c_fc",), rank=2)
    weights = read_weights(spec, tmp_path / "model")
    merged = merge_adapter(spec, weights, names, read_adapter(adapter))
    factors = load_file(adapter / "adapter_model.safetensors")
    layer = next(
        name.removesuffix(".lora_A.weight")
        for name in sorted(factors)
        if name.endswith("h.0.mlp.c_fc.lora_A.weight")
    )
    expected = 2 * factors[f"{layer}.lora_B.weight"] @ factors[f"{layer}.lora_A.weight"]
    np.testing.assert_allclose(
        merged["decoder.layers.0.mlp.up.weight"] - weights["decoder.layers.0.mlp.up.weight"],
        expected,
        atol=1e-6,
    )


def test_a_missing_file_is_reported(adapter):
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        read_adapter(adapter)


def test_a_missing_factor_is_reported(adapter):
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[f"{LAYER}.lora_B.weight"]
    save_file(tensors, file)
    with pytest.raises(ModelError, match=f"{LAYER}.lora_B.weight"):
        read_adapter(adapter)


def test_an_adapter_for_another_model_is_rejected(adapter, tmp_path):
    spec = write_tiny_model(tmp_path / "other", "gpt2")
    names = tensor_names(tmp_path / "other")
    with pytest.raises(ModelError, match="q_proj"):
        merge_adapter(spec, read_weights(spec, tmp_path / "other"), names, read_adapter(adapter))
