"""Quantized checkpoints give the same weights and logits as the dequantized checkpoint in
bfloat16, in every loader.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.backends.checkpoints import save_checkpoint
from tests.backends.cpu.native_kernels import require_library
from tests.backends.cpu.test_native import LIMITS, NUM_BLOCKS, ignore, logits_of
from tests.quantized_checkpoints import NAME, RECIPES, write_quantized
from tgi.architectures import ModelSpec, load_spec
from tgi.errors import ModelError
from tgi.testing.reference.weights import read_weights
from tgi.worker.checkpoint import check_checkpoint, quantized_parameters
from tgi_cpu.native_decoder import native_loader
from tgi_cpu.native_quantized import QuantizedMatrix
from tgi_cpu.native_records import BLOCK_TOKENS
from tgi_torch.model.decoder import build_decoder
from tgi_torch.ops import REFERENCE
from tgi_torch.weights.checkpoint_formats import (
    checkpoint_formats,
    dequantized_parameters,
    formats_line,
)
from tgi_torch.weights.loading import load_weights
from tgi_tpu.mesh import make_mesh
from tgi_tpu.weights.parameters import load

SIZES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
}
FAMILIES = {
    "llama": SIZES,
    "qwen2": SIZES,
    "phi3": SIZES,
    "gpt_neox": {key: value for key, value in SIZES.items() if key != "num_key_value_heads"},
    "mixtral": SIZES | {"num_local_experts": 4},
}
CASES = [
    *((family, "gptq-order") for family in FAMILIES),
    ("llama", "gptq"),
    ("llama", "gptq-v2-3-bits"),
    ("phi3", "awq"),
    ("mixtral", "awq"),
    ("phi3", "marlin"),
]


def spec_of(path: Path) -> ModelSpec:
    spec = load_spec(path)
    assert isinstance(spec, ModelSpec)
    return spec


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return a function that writes a case, once, and returns its two folders."""
    written = {}

    def write(family, name):
        if (family, name) not in written:
            source = tmp_path_factory.mktemp(f"{family}-{name}")
            save_checkpoint(family, source / "source", **FAMILIES[family])
            written[family, name] = write_quantized(source / "source", source, name)
        return written[family, name]

    return write


@pytest.mark.parametrize(("family", "name"), CASES)
def test_torch(family, name, folders):
    def load_decoder(path):
        decoder = build_decoder(spec_of(path), REFERENCE, torch.bfloat16, "cpu")
        load_weights(decoder, path, ignore)
        return decoder

    found, expected = map(load_decoder, folders(family, name))
    for parameter, tensor in expected.parameters.by_parameter.items():
        assert torch.equal(found.parameters.by_parameter[parameter], tensor), parameter
    with torch.inference_mode():
        logits = [
            logits_of(decoder.with_cache(NUM_BLOCKS, BLOCK_TOKENS, LIMITS))
            for decoder in (found, expected)
        ]
    assert torch.equal(*logits)


def torch_logits(path, dtype, formats=None):
    """The logits of the shared decoder, which dequantizes the weights that `formats` does not
    contain.
    """
    decoder = build_decoder(spec_of(path), REFERENCE, dtype, "cpu", formats)
    load_weights(decoder, path, ignore)
    with torch.inference_mode():
        return logits_of(decoder.with_cache(NUM_BLOCKS, BLOCK_TOKENS, LIMITS))


def check_logits(logits, quantized, dequantized):
    """The error must not be larger than that of the dequantized checkpoint in bfloat16."""
    exact = torch_logits(quantized, torch.float32)
    usual = (torch_logits(dequantized, torch.bfloat16) - exact).abs()
    error = (logits - exact).abs()
    assert error.max() <= 1.5 * usual.max()
    assert error.mean() <= 1.3 * usual.mean()


@pytest.mark.parametrize(("family", "name"), CASES)
def test_quantized_matrices_of_torch(family, name, folders):
    quantized, dequantized = folders(family, name)
    formats = checkpoint_formats(spec_of(quantized), quantized)
    assert formats is not None
    logits = torch_logits(quantized, torch.bfloat16, formats)
    check_logits(logits, quantized, dequantized)


@pytest.mark.parametrize(("family", "name"), [case for case in CASES if case[0] != "mixtral"])
def test_native_kernels(family, name, folders):
    library = require_library()
    quantized, dequantized = folders(family, name)
    decoder = native_loader(library, 1)(spec_of(quantized), torch.bfloat16, quantized, ignore)
    kept = {
        name
        for name, matrix in decoder.weights.matrices.items()
        if isinstance(matrix, QuantizedMatrix)
    }
    assert kept == {name for name in decoder.weights.matrices if name.startswith("decoder")}
    with torch.inference_mode():
        logits = logits_of(decoder.with_cache(NUM_BLOCKS, BLOCK_TOKENS, LIMITS))
    check_logits(logits, quantized, dequantized)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_experts_are_reported_as_dequantized(family, folders):
    path = folders(family, "gptq-order")[0]
    spec, formats = spec_of(path), checkpoint_formats(spec_of(path), path)
    assert formats is not None
    names = dequantized_parameters(formats, spec)
    assert {name.split(".")[-2] for name in names} == (
        {"gate", "up", "down"} if family == "mixtral" else set()
    )
    line = formats_line(formats, spec, "bfloat16")
    assert formats.name in line
    assert ("dequantized to bfloat16" in line) == bool(names)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_jax(family, name, folders):
    mesh = make_mesh(1, "cpu")
    found, expected = (
        jax.tree.leaves(load(spec_of(path), path, mesh, "bfloat16"))
        for path in folders(family, name)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize(("family", "name"), CASES)
def test_reference(family, name, folders):
    found, expected = (read_weights(spec_of(path), path) for path in folders(family, name))
    for parameter, weights in expected.items():
        rounded = torch.from_numpy(found[parameter]).bfloat16().float().numpy()
        np.testing.assert_array_equal(rounded, weights, err_msg=parameter)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_formats_are_known_before_loading(family, name, folders):
    path = folders(family, name)[0]
    formats = quantized_parameters(spec_of(path), path)
    matrices = {
        parameter for parameter in formats if parameter.split(".")[-2] in {"q", "k", "v", "o"}
    }
    assert len(matrices) == 4 * SIZES["num_hidden_layers"]
    assert {item.format.bits for item in formats.values()} == {RECIPES[name].config["bits"]}
    digests = {
        part: formats[f"decoder.layers.0.attention.{part}.weight"].order_digest for part in "qkvo"
    }
    assert digests["q"] == digests["k"] == digests["v"]
    assert bool(digests["q"]) == RECIPES[name].has_order


Q, K, OUT = (f"model.layers.0.self_attn.{part}_proj" for part in "qko")
PARTS = ("qweight", "qzeros", "scales", "g_idx")


def without_scales(tensors):
    del tensors[f"{Q}.scales"]


def without_codes(tensors):
    del tensors[f"{Q}.qweight"]


def with_a_left_over(tensors):
    tensors[f"{Q}.weight_scale"] = torch.ones(3)


def with_the_parts_of_another_weight(tensors):
    tensors.update({f"{OUT}.{key}": tensors[f"{K}.{key}"].clone() for key in PARTS})


def with_less_codes(tensors):
    tensors[f"{Q}.qweight"] = tensors[f"{Q}.qweight"][:-4].clone()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_scales, f"has no tensor `{Q}.scales`"),
        (without_codes, f"has no tensor `{Q}.qweight`"),
        (with_a_left_over, f"`{Q}.weight_scale`"),
        (with_the_parts_of_another_weight, f"`{OUT}.weight` has shape [64, 128]"),
        (
            with_less_codes,
            f"`{Q}.scales` has shape [4, 128], but its format requires [3, 128] for `{Q}.qweight`",
        ),
    ],
)
def test_a_wrong_tensor_is_named(change, message, folders, tmp_path):
    path = shutil.copytree(folders("llama", "gptq")[0], tmp_path / "model")
    tensors = load_file(path / NAME)
    change(tensors)
    save_file(tensors, path / NAME)
    with pytest.raises(ModelError) as error:
        check_checkpoint(path, spec_of(path))
    assert message in str(error.value)
