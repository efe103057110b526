"""A quantized checkpoint gives the logits of the same weights without quantization."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from tests.backends.checkpoints import save_checkpoint
from tests.backends.format_encoders import (
    ENCODERS,
    EXPERT_ENCODERS,
    quantized_checkpoint,
    unquantized_checkpoint,
)
from tests.backends.paged_batch import PagedSequence, step
from tgi.architectures import ModelSpec, load_spec
from tgi.checkpoints.checkpoint import open_checkpoint, read_headers
from tgi.checkpoints.safetensors_file import stored_array
from tgi.testing.reference.weights import read_weights
from tgi_torch.attention.kv_cache import KVCache
from tgi_torch.model.decoder import build_decoder
from tgi_torch.ops import REFERENCE
from tgi_torch.weights.checkpoint_formats import checkpoint_formats
from tgi_torch.weights.loading import load_weights

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
FAMILIES = ("llama", "qwen2", "phi3", "mixtral")
TOKENS = [3, 50, 7, 99, 12, 64, 1, 42]
CASES = [(family, kind) for family in FAMILIES for kind in ENCODERS]


@pytest.fixture(scope="module")
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / request.param
    layer_types = {"layer_types": ["sliding_attention", "full_attention"]}
    others = layer_types if request.param == "gpt_oss" else {}
    save_checkpoint(request.param, path, **SIZES, **others)
    return path


def logits(path: Path) -> torch.Tensor:
    spec = load_spec(path)
    assert isinstance(spec, ModelSpec)
    with torch.inference_mode():
        decoder = build_decoder(spec, REFERENCE, torch.float32, "cpu")
        load_weights(decoder, path, lambda done, total: None)
        cache = KVCache.allocate(spec, 8, 4, torch.float32, torch.device("cpu"))
        sequence = PagedSequence(TOKENS, [1, 2, 3])
        step(decoder, cache, [(sequence, len(TOKENS))])
        return torch.stack(sequence.logits)


def check(source: Path, tmp_path: Path, kind: str, num_quantized: int) -> None:
    quantized, plain = tmp_path / "quantized", tmp_path / "plain"
    quantized_checkpoint(source, quantized, kind)
    unquantized_checkpoint(quantized, plain)
    assert len(read_headers(quantized).quantized) == num_quantized
    spec = load_spec(quantized)
    expected = read_weights(spec, plain)
    for name, weight in read_weights(spec, quantized).items():
        np.testing.assert_array_equal(weight, expected[name], err_msg=name)
    torch.testing.assert_close(logits(quantized), logits(plain), rtol=0, atol=0)
    distance = (logits(quantized) - logits(source)).abs()
    assert 0 < float(distance.max()) < 3


@pytest.mark.parametrize(("source", "kind"), CASES, indirect=["source"])
def test_quantized_weights_give_the_same_logits(source: Path, tmp_path: Path, kind: str) -> None:
    counts = {"llama": 14, "qwen2": 14, "phi3": 8, "mixtral": 8 + 2 * 3 * 5}
    check(source, tmp_path, kind, counts[source.name])


@pytest.mark.parametrize("source", ["llama"], indirect=True)
def test_codes_that_are_views_of_the_file_are_loaded(source: Path, tmp_path: Path) -> None:
    """torch prints a warning for arrays that cannot be written. Warnings are errors in tests."""
    quantized_checkpoint(source, tmp_path / "quantized", "compressed-fp8")
    spec = load_spec(tmp_path / "quantized")
    assert isinstance(spec, ModelSpec)
    formats = checkpoint_formats(spec, tmp_path / "quantized")
    decoder = build_decoder(spec, REFERENCE, torch.float32, "cpu", formats)
    load_weights(decoder, tmp_path / "quantized", lambda done, total: None)


@pytest.mark.parametrize("source", ["gpt_oss"], indirect=True)
@pytest.mark.parametrize("kind", EXPERT_ENCODERS)
def test_quantized_experts_give_the_same_logits(source: Path, tmp_path: Path, kind: str) -> None:
    check(source, tmp_path, kind, 2 * 2)


@pytest.mark.parametrize("source", ["gpt_oss"], indirect=True)
def test_mxfp4_experts_are_those_of_transformers(source: Path, tmp_path: Path) -> None:
    path, name = tmp_path / "quantized", "model.layers.1.mlp.experts.gate_up_proj"
    quantized_checkpoint(source, path, "mxfp4")
    with open_checkpoint(path) as checkpoint:
        blocks, scales = (
            torch.from_numpy(stored_array(checkpoint.mapped[f"{name}_{part}"]).copy())
            for part in ("blocks", "scales")
        )
        expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
        rows = slice(0, checkpoint.tensors.quantized[name].shape[1])
        for expert, weight in enumerate(expected):
            found = checkpoint.decode(name, expert, rows).dequantize()
            np.testing.assert_array_equal(found, weight.T.numpy())
