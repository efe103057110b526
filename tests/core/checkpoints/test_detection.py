"""The format of a quantized checkpoint is found in the files beside its weights."""

import json

import pytest

from tgi.checkpoints.checkpoint import read_headers
from tgi.checkpoints.detection import check_quantize, find_format
from tgi.errors import ModelError
from tgi.testing.tiny_models import write_tiny_model

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}


def write(folder, **files):
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("files", "description"),
    [
        ({"config": {}}, None),
        ({"config": {"quantization_config": None}}, None),
        ({"config": {"quantization_config": GPTQ}}, "GPTQ, 4 bits, groups of 128 inputs"),
        ({"config": {"compression_config": GPTQ}}, "GPTQ, 4 bits, groups of 128 inputs"),
        (
            {"config": {"text_config": {"quantization_config": GPTQ}}},
            "GPTQ, 4 bits, groups of 128 inputs",
        ),
        (
            {"config": {}, "quantize_config": {"bits": 8, "group_size": -1, "desc_act": True}},
            "GPTQ, 8 bits, one group per output, ordered by activation",
        ),
        (
            {"config": {}, "quantize_config": {"bits": 4, "is_marlin_format": True}},
            "Marlin, 4 bits, one group per output",
        ),
        (
            {"config": {}, "quant_config": {"w_bit": 4, "q_group_size": 64, "version": "GEMM"}},
            "AWQ, 4 bits, groups of 64 inputs",
        ),
        (
            {"config": {"quantization_config": GPTQ}, "quantize_config": {"bits": 2}},
            "GPTQ, 4 bits, groups of 128 inputs",
        ),
    ],
)
def test_the_format_is_found(files, description, tmp_path):
    write(tmp_path, **files)
    form = find_format(tmp_path)
    assert (None if form is None else form.description) == description


def test_an_unknown_method_is_an_error_with_the_known_ones(tmp_path):
    write(tmp_path, config={"quantization_config": {"quant_method": "rot13"}})
    with pytest.raises(ModelError, match=r"`rot13` is not supported.*awq, .*gptq"):
        find_format(tmp_path)
    write(tmp_path, config={"quantization_config": {"bits": 4}})
    with pytest.raises(ModelError, match="`quant_method` is missing"):
        find_format(tmp_path)
    write(tmp_path, config={"quantization_config": [4]})
    with pytest.raises(ModelError, match="`quantization_config` must be an object"):
        find_format(tmp_path)


def test_the_separate_file_of_modelopt_is_an_error(tmp_path):
    """Its tensors must not be reported as tensors of another model."""
    write(tmp_path, config={}, hf_quant_config={"quantization": {"quant_algo": "FP8"}})
    with pytest.raises(ModelError, match=r"hf_quant_config.json: .* `modelopt` is not supported"):
        find_format(tmp_path)


def test_a_checkpoint_without_quantized_tensors_has_no_format(tmp_path):
    write_tiny_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    write(tmp_path, config=config | {"quantization_config": GPTQ})
    headers = read_headers(tmp_path)
    assert headers.format is None
    assert "model.layers.0.mlp.up_proj.weight" in headers.plain


@pytest.mark.parametrize(
    ("changes", "accepted"),
    [({}, [None, "gptq"]), ({"checkpoint_format": "marlin"}, [None, "gptq", "marlin"])],
)
def test_the_value_of_quantize_may_repeat_the_format(changes, accepted, tmp_path):
    write(tmp_path, config={"quantization_config": GPTQ | changes})
    form = find_format(tmp_path)
    for value in accepted:
        check_quantize(form, tmp_path, value)
    for value in ("int8", "awq", "fp8"):
        with pytest.raises(ModelError, match=f"`--quantize {value}` contradicts the checkpoint"):
            check_quantize(form, tmp_path, value)
