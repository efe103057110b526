"""Whole models with quantized weights.

They are compared with a decoder whose weights were rounded to the same values, and with bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.backends.checkpoints import save_checkpoint
from tests.backends.cpu.native_kernels import require_library
from tests.backends.cpu.test_native import LIMITS, LONGER, NUM_BLOCKS, ignore, logits_of
from tests.backends.paged_batch import metadata_of
from tgi.architectures import ModelSpec, load_spec
from tgi.backend import EngineConfig, Health, RequestedLimits
from tgi.demo import demo_model_path
from tgi.testing.conformance.backend_under_test import RecordingReporter
from tgi.text import Tokenizer
from tgi_cpu import CpuBackend, tgi_backend
from tgi_cpu.native import NativeLibrary
from tgi_cpu.native_decoder import NativeDecoder, NativeModel, native_loader
from tgi_cpu.native_records import BLOCK_TOKENS
from tgi_torch.memory import weights_bytes
from tgi_torch.model.decoder import DecoderWithCache, build_decoder
from tgi_torch.ops import REFERENCE
from tgi_torch.weights.loading import load_weights
from tgi_torch.weights.quantization import quantize
from tgi_torch.weights.weight_formats import (
    INT4,
    INT8,
    QUANTIZATIONS,
    Quantization,
    describe_quantization,
    describe_scales,
    is_quantized,
)

SCHEMES = pytest.mark.parametrize("name", ["int8", "int4", "bitsandbytes-nf4", "fp8"])
# Fused and split projections, transposed weights, biases, tied and untied heads, gated and ungated
# MLPs, and scaled embeddings.
FAMILIES = ["llama", "gpt2", "qwen2", "gemma2", "falcon", "bloom"]
PROMPTS = [
    "What is TGI?",
    "What is 17 + 25?",
    "How do I choose the port?",
    "Spell the word: garden",
    "What is the capital of France?",
    "Sort these numbers: 4, 9, 1",
    "Which metrics are there?",
    "Tell me a story.",
]


@pytest.fixture(scope="module")
def library() -> NativeLibrary:
    return require_library()


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def spec_of(path: Path) -> ModelSpec:
    spec = load_spec(path)
    assert isinstance(spec, ModelSpec)
    return spec


def native_model(
    path: Path, library: NativeLibrary, quantization: Quantization | None
) -> NativeModel:
    loaded = native_loader(library, 2, quantization)(spec_of(path), torch.bfloat16, path, ignore)
    assert isinstance(loaded, NativeDecoder)
    return loaded.with_cache(NUM_BLOCKS, BLOCK_TOKENS, LIMITS)


def rounded_model(
    path: Path, quantization: Quantization, dtype: torch.dtype, *, by_outputs: bool = False
) -> DecoderWithCache:
    """The plain decoder with weights that were quantized and dequantized.

    `by_outputs` uses 8 bits with one scale per output.
    """
    decoder = build_decoder(spec_of(path), REFERENCE, dtype, "cpu")
    load_weights(decoder, path, ignore)
    for name, parameter in decoder.parameters.by_parameter.items():
        if is_quantized(name, tuple(parameter.shape)):
            weight_format = quantization.format_of(name)
            if by_outputs and weight_format == INT8:
                form = replace(weight_format.form, group_inputs=None)
                weight_format = replace(weight_format, form=form)
            parameter.copy_(torch.from_numpy(quantize(parameter, weight_format).dequantize()))
        else:
            parameter.copy_(parameter.bfloat16())
    return decoder.with_cache(NUM_BLOCKS, BLOCK_TOKENS, LIMITS)


@SCHEMES
@pytest.mark.parametrize("family", FAMILIES)
def test_native_kernels(family: str, name: str, library: NativeLibrary, tmp_path: Path) -> None:
    """The error is similar to that of torch's bfloat16 with the same weights."""
    save_checkpoint(family, tmp_path, **LONGER.get(family, {}))
    quantization = QUANTIZATIONS[name]
    reference = logits_of(rounded_model(tmp_path, quantization, torch.float32))
    usual = (logits_of(rounded_model(tmp_path, quantization, torch.bfloat16)) - reference).abs()
    native = (logits_of(native_model(tmp_path, library, quantization)) - reference).abs()
    assert native.max() <= 1.5 * usual.max()
    assert native.mean() <= 1.1 * usual.mean()


@SCHEMES
@pytest.mark.parametrize("family", [*FAMILIES, "mixtral", "opt"])
def test_products_of_torch(family: str, name: str, tmp_path: Path) -> None:
    """The path without native kernels supports any mixer. Experts are not quantized."""
    save_checkpoint(family, tmp_path, **LONGER.get(family, {}))
    quantization = QUANTIZATIONS[name]
    reference = logits_of(rounded_model(tmp_path, quantization, torch.float32, by_outputs=True))
    usual = (
        logits_of(rounded_model(tmp_path, quantization, torch.bfloat16, by_outputs=True))
        - reference
    ).abs()
    decoder = build_decoder(spec_of(tmp_path), REFERENCE, torch.bfloat16, "cpu", quantization)
    load_weights(decoder, tmp_path, ignore)
    found = (logits_of(decoder.with_cache(NUM_BLOCKS, BLOCK_TOKENS, LIMITS)) - reference).abs()
    assert found.max() <= 1.5 * usual.max()
    assert found.mean() <= 1.3 * usual.mean()


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_every_name_is_logged_and_saves_memory(name: str, tmp_path: Path) -> None:
    save_checkpoint("llama", tmp_path, dtype=torch.float32, hidden_size=64)
    spec, reporter = spec_of(tmp_path), RecordingReporter()
    config = EngineConfig("cpu", str(tmp_path), spec, quantize=name)
    support = tgi_backend().supports(spec, config)
    assert support.status == "native"
    worker = tgi_backend().create_worker(config, reporter)
    worker.load()
    agreement = worker.negotiate(RequestedLimits())
    quantization = QUANTIZATIONS[name]
    text = describe_quantization(name)
    assert any(f"`--quantize {name}`: {text}" in line for line in reporter.lines)
    assert f"weights become {quantization.layers.bits}-bit" in text
    assert agreement.facts["quantization"] == f"{quantization.name} weights"
    is_by_output = agreement.facts["kernels"] == "torch" and quantization.layers == INT8
    assert agreement.facts["weight scales"] == (
        "a scale for every output" if is_by_output else describe_scales(quantization.layers)
    )
    assert agreement.facts["dtype"] == "bfloat16"
    expected = weights_bytes(spec, "bfloat16", quantization)
    assert (
        agreement.memory[0].num_bytes
        == support.memory[0].num_bytes
        == expected
        < weights_bytes(spec, "bfloat16")
    )
    assert agreement.memory[0].detail == support.memory[0].detail == quantization.name
    assert [
        item.chosen for item in CpuBackend().explain(spec, config) if item.operation == "weights"
    ] == [describe_quantization(name)]
    worker.warmup()
    assert worker.health(True) == Health(True)
    worker.close()


@pytest.mark.parametrize("name", ["awq", "gptq", "marlin", "exl2", "compressed-tensors", "int3"])
def test_unsupported_names_are_rejected(name: str, tmp_path: Path) -> None:
    save_checkpoint("llama", tmp_path)
    spec = spec_of(tmp_path)
    support = tgi_backend().supports(spec, EngineConfig("cpu", str(tmp_path), spec, quantize=name))
    assert support.status == "no"
    assert f"`--quantize {name}`" in support.reasons[0]
    assert "int8" in support.reasons[0]


@SCHEMES
def test_weights_take_the_estimated_memory(name: str, library: NativeLibrary) -> None:
    """For the sizes of real models, in which padding is negligible."""
    path = demo_model_path(lambda message: None)
    spec = spec_of(path)
    weights = NativeDecoder(spec, library, 1, QUANTIZATIONS[name]).weights
    taken = sum(matrix.num_bytes for matrix in weights.matrices.values())
    taken += sum(vector.nbytes for vector in weights.vectors.values())
    assert taken == pytest.approx(weights_bytes(spec, "bfloat16", QUANTIZATIONS[name]), rel=0.02)


@pytest.mark.parametrize(
    ("parameter", "shape", "bits"),
    [
        ("embedding.weight", (101, 32), 8),
        ("head.weight", (101, 32), 8),
        ("decoder.layers.0.attention.q.weight", (32, 32), 4),
        ("decoder.layers.1.mlp.down.weight", (32, 64), 4),
        ("embedding.positions.weight", (101, 32), None),
        ("decoder.layers.0.attention.q.bias", (32,), None),
        ("decoder.layers.0.attention.q_norm.weight", (4, 8), None),
        ("decoder.layers.0.moe.experts.up.weight", (8, 64, 32), None),
        ("decoder.layers.0.moe.router.weight", (8, 32), None),
    ],
)
def test_format_of_each_parameter(parameter: str, shape: tuple[int, ...], bits: int | None) -> None:
    assert is_quantized(parameter, shape) == (bits is not None)
    if bits is not None:
        assert QUANTIZATIONS["int4"].format_of(parameter).bits == bits
        assert QUANTIZATIONS["int8"].format_of(parameter).bits == 8


def test_odd_sizes_are_rounded_up() -> None:
    assert INT4.num_bytes(3, 33) == 3 * (2 * 16 + 2 * 2 + 4)
    assert INT8.num_bytes(1, 64) == 64 + 2


def greedy(model: NativeModel, prompt: list[int], count: int) -> list[int]:
    """Generate the next `count` tokens."""
    tokens, done = list(prompt), 0
    for _ in range(count):
        new = torch.tensor(tokens[done:])
        hidden = model.forward(new, metadata_of([(list(range(10)), done, len(new))], BLOCK_TOKENS))
        done = len(tokens)
        tokens.append(int(model.logits(hidden[-1:].clone())[0].argmax()))
    return tokens[len(prompt) :]


def test_demo_responses_in_int8_equal_those_in_bfloat16(library: NativeLibrary) -> None:
    """At least seven of eight answers of 24 tokens must be equal."""
    path = demo_model_path(lambda message: None)
    tokenizer = Tokenizer.load(path)
    usual, quantized = (
        native_model(path, library, quantization) for quantization in (None, QUANTIZATIONS["int8"])
    )
    prompts = [
        tokenizer.encode(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n").ids
        for text in PROMPTS
    ]
    same = [greedy(usual, prompt, 24) == greedy(quantized, prompt, 24) for prompt in prompts]
    assert sum(same) >= len(same) - 1
