"""Whole checkpoints: packing, reading by the loader, fused matrices and experts."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.backends.checkpoints import save_checkpoint
from tests.packed_weights import PlainWeight, pack_gptq
from tgi.architectures import load_spec
from tgi.backend import BackendError, GptqSettings, ModelError, QuantizationJob
from tgi.checkpoints.checkpoint import open_checkpoint
from tgi.checkpoints.safetensors_writer import SafetensorsWriter
from tgi.testing.tiny_models import write_tiny_model
from tgi_torch.gptq import packing
from tgi_torch.gptq.quantizer import quantization_config, quantize_checkpoint
from tgi_torch.gptq.solver import QuantizedWeights

MIXTURE = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 1,
    "max_position_embeddings": 512,
}


def random_weights(bits, seed=0, outputs=64, inputs=96, size=32):
    random = np.random.default_rng(seed)
    groups = random.permutation(np.arange(inputs, dtype=np.int32) // size)
    shape = (outputs, inputs // size)
    return PlainWeight(
        random.integers(0, 1 << bits, (outputs, inputs)),
        random.integers(0, 1 << bits, shape),
        random.random(shape).astype(np.float16),
        groups,
    )


def as_tensors(plain):
    arrays = plain.codes.astype(np.uint8), plain.scales, plain.zeros.astype(np.uint8), plain.groups
    return QuantizedWeights(*map(torch.from_numpy, arrays))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_loader_decodes_the_same_codes(tmp_path, bits):
    weights = as_tensors(random_weights(bits))
    settings = GptqSettings(bits, 32, is_symmetric=False, has_order=True)
    config = {"quantization_config": quantization_config(settings, [])}
    (tmp_path / "config.json").write_text(json.dumps(config))
    writer = SafetensorsWriter(
        tmp_path, max_file_bytes=1000, max_header_bytes=2000, metadata={"format": "pt"}
    )
    names = {"int32": "I32", "float16": "F16"}
    for key, data in packing.pack_gptq(weights, bits).items():
        writer.add(f"a.{key}", names[str(data.dtype)], data.shape, data)
    writer.finish()
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    with open_checkpoint(tmp_path) as checkpoint:
        matrix = checkpoint.decode("a.weight", None, slice(0, 64))
    np.testing.assert_array_equal(matrix.codes, weights.codes.numpy()[:, matrix.input_order])
    np.testing.assert_array_equal(matrix.zeros, weights.zeros.numpy())
    np.testing.assert_array_equal(matrix.dequantize(), weights.dequantize().numpy())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_packed_words_are_those_of_the_plain_packer(bits):
    plain = random_weights(bits)
    weights = as_tensors(plain)
    expected = pack_gptq(plain, bits)
    packed = packing.pack_gptq(weights, bits)
    assert packed.keys() == expected.keys()
    for name, data in packed.items():
        np.testing.assert_array_equal(data, expected[name], strict=True)
    assert sum(data.nbytes for data in packed.values()) == packing.packed_bytes(64, 96, bits, 32)


def quantize(source, output, settings, *, num_tokens=96, free_bytes=1 << 40):
    output.mkdir()
    ids = np.random.default_rng(0).integers(0, 256, (2, num_tokens)).astype(np.int32)
    lines = []
    job = QuantizationJob(load_spec(source), source, output, tuple(ids), settings)
    quantize_checkpoint(job, lines.append, free_bytes)
    return lines


def errors(lines):
    """The ratios of the reported errors."""
    return [float(line.split("error ")[1].split()[0]) for line in lines if "error" in line]


@pytest.mark.parametrize(
    ("family", "settings", "overrides"),
    [
        ("llama", GptqSettings(4, 32), {}),
        ("llama", GptqSettings(8, None, is_symmetric=False), {}),
        ("qwen2", GptqSettings(3, 16, is_symmetric=False, has_order=True), {}),
        ("gpt_neox", GptqSettings(4, 32, has_order=True), {}),
        ("gpt2", GptqSettings(2, 8, is_symmetric=False), {}),
    ],
)
def test_the_loader_reads_the_codes_that_were_computed(tmp_path, family, settings, overrides):
    write_tiny_model(tmp_path / "source", family, dtype="bfloat16", **overrides)
    lines = quantize(tmp_path / "source", tmp_path / "out", settings)
    assert len(errors(lines)) == 3
    assert max(errors(lines)) < 1
    stored = load_file(tmp_path / "source" / "model.safetensors")
    with open_checkpoint(tmp_path / "out") as checkpoint:
        assert checkpoint.tensors.quantized
        assert checkpoint.tensors.plain.keys() < stored.keys()
        assert checkpoint.tensors.shapes.keys() == stored.keys()
        for name, tensor in checkpoint.tensors.quantized.items():
            weights = stored[name].float().numpy()
            weights = weights.T if family == "gpt2" else weights
            decoded = checkpoint.decode(name, None, slice(0, tensor.shape[0])).dequantize()
            difference = np.square(decoded - weights).mean() / np.square(weights).mean()
            assert difference < {2: 0.6, 3: 0.2, 4: 0.05, 8: 1e-3}[settings.bits]


def test_experts_without_tokens_are_rounded_and_reported(tmp_path):
    save_checkpoint("mixtral", tmp_path / "source", **MIXTURE)
    lines = quantize(tmp_path / "source", tmp_path / "out", GptqSettings(4, 16), num_tokens=2)
    assert "experts that no token reached were rounded to nearest" in lines[-1]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    excluded = config["quantization_config"]["dynamic"]
    assert list(excluded) == [
        rf"-:^model\.layers\.{layer}\.block_sparse_moe\.gate$" for layer in range(2)
    ]
    with open_checkpoint(tmp_path / "out") as checkpoint:
        assert sum(".experts." in name for name in checkpoint.tensors.quantized) == 2 * 8 * 3


def test_models_that_cannot_be_quantized_are_rejected(tmp_path):
    write_tiny_model(tmp_path / "source")
    with pytest.raises(BackendError, match=r"needs about .* GB of memory"):
        quantize(tmp_path / "source", tmp_path / "first", GptqSettings(), free_bytes=1000)
    write_tiny_model(tmp_path / "t5", "t5")
    with pytest.raises(ModelError, match="has an encoder"):
        quantize(tmp_path / "t5", tmp_path / "second", GptqSettings())
    write_tiny_model(tmp_path / "odd", hidden_size=24, intermediate_size=20)
    with pytest.raises(ModelError, match="contains no matrix that GPTQ can store"):
        quantize(tmp_path / "odd", tmp_path / "third", GptqSettings(bits=3))
