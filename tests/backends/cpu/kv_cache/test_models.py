"""Whole models with a cache of codes, in native kernels and in torch operations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.backends.checkpoints import save_checkpoint
from tests.backends.cpu.kv_cache.codes import (
    FLOATS,
    decode,
    encode_floats,
    encode_integers,
    ordinary,
    unusual,
)
from tests.backends.cpu.test_native import LIMITS, NUM_BLOCKS, ignore, logits_of
from tests.backends.mixer_checkpoints import save_mixer_variant
from tgi.architectures import ModelSpec, load_spec
from tgi.backend import EngineConfig, ModelError
from tgi.worker.cache_format import CACHE_FORMATS, CacheScales
from tgi.worker.cache_scales import cache_coding
from tgi_cpu import tgi_backend
from tgi_cpu.native import NativeLibrary
from tgi_cpu.native_decoder import native_loader
from tgi_cpu.native_records import BLOCK_TOKENS
from tgi_torch.attention.cache_codes import FloatCodec, IntegerCodec
from tgi_torch.attention.kv_cache import KVCache, LayerCache
from tgi_torch.memory import kv_bytes_per_token
from tgi_torch.model.decoder import build_decoder
from tgi_torch.ops import REFERENCE
from tgi_torch.weights.loading import load_weights

FLOAT8 = {"fp8_e4m3fn": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
# Maximum error of the logits: root mean square, divided by the standard deviation of the logits.
ERRORS = {"fp8_e4m3fn": 0.05, "fp8_e5m2": 0.1, "int8": 0.02}


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def torch_logits(path: Path, spec: ModelSpec, name: str | None) -> Tensor:
    decoder = build_decoder(spec, REFERENCE, torch.float32, "cpu")
    load_weights(decoder, path, ignore)
    coding = cache_coding(name, path, spec)
    model = decoder.with_cache(NUM_BLOCKS, BLOCK_TOKENS, LIMITS, coding=coding)
    for layer in model.kv_cache.layers:
        for tensor in layer.owned:
            tensor.view(torch.uint8).fill_(0xFF)
    return logits_of(model)


def native_logits(path: Path, spec: ModelSpec, name: str | None, library: NativeLibrary) -> Tensor:
    loaded = native_loader(library, 2)(spec, torch.bfloat16, path, ignore)
    coding = cache_coding(name, path, spec)
    return logits_of(loaded.with_cache(NUM_BLOCKS, BLOCK_TOKENS, LIMITS, coding=coding))


def error_of(logits: Tensor, expected: Tensor) -> float:
    return float((logits - expected).square().mean().sqrt() / expected.std())


def spec_of(path: Path) -> ModelSpec:
    spec = load_spec(path)
    assert isinstance(spec, ModelSpec)
    return spec


def save_llama(path: Path, **fields: object) -> ModelSpec:
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
    save_checkpoint("llama", path, max_position_embeddings=320, **sizes, **fields)
    return spec_of(path)


def add_scales(path: Path, scales: dict[str, Tensor]) -> None:
    """Add tensors to the checkpoint."""
    file = path / "model.safetensors"
    save_file(load_file(file) | scales, file, metadata={"format": "pt"})


@pytest.mark.parametrize("scale", [1.0, 0.37])
@pytest.mark.parametrize("name", FLOATS)
def test_float_codes_in_torch(name: str, scale: float) -> None:
    vectors = np.concatenate([unusual(name), ordinary(500)])
    codec = FloatCodec(FLOAT8[name], scale, torch.float32)
    slots = torch.arange(len(vectors))
    codes = codec.encode(torch.from_numpy(vectors), slots)
    with np.errstate(over="ignore"):
        quotients = vectors / np.float32(scale)
    quotients = np.where(np.isfinite(vectors) & np.isinf(quotients), vectors, quotients)
    is_nan = np.isnan(decode(codes.numpy(), name))
    np.testing.assert_array_equal(is_nan, np.isnan(decode(encode_floats(vectors, name), name)))
    expected_codes = encode_floats(quotients, name)
    np.testing.assert_array_equal(codes.numpy()[~is_nan], expected_codes[~is_nan])
    decoded = codec.decode(codes, slots).numpy()
    with np.errstate(invalid="ignore"):
        expected = decode(codes.numpy(), name, np.float32(scale))
    np.testing.assert_array_equal(decoded, expected)


def test_integer_codes_in_torch() -> None:
    vectors = ordinary(70, 2, 40)
    vectors[3, 1] = 0.0
    vectors[4, 0, 7], vectors[5, 1, 39] = np.nan, np.inf
    vectors[6, 1] = 1e-40
    codec = IntegerCodec(torch.full((3, 32, 2), torch.nan), torch.float32)
    slots = torch.randperm(96)[:70]
    codes = codec.encode(torch.from_numpy(vectors), slots)
    expected_codes, expected_scales = encode_integers(vectors)
    np.testing.assert_array_equal(codec.scales.view(96, 2)[slots].numpy(), expected_scales)
    difference = codes.view(torch.int8).numpy().astype(int) - expected_codes.view(np.int8)
    assert np.abs(difference[expected_scales > 1e-35]).max() <= 1
    assert (difference[expected_scales > 1e-35] != 0).mean() < 0.001
    decoded = codec.decode(codes, slots).numpy()
    assert np.isnan(decoded[4, 0]).all()
    assert np.isnan(decoded[5, 1]).all()
    assert not decoded[3, 1].any()
    assert not decoded[6, 1].any()
    kept = np.isfinite(expected_scales) & (expected_scales > 1e-35)
    error = np.abs(decoded - vectors)[kept]
    assert (error <= 0.51 * expected_scales[kept][:, None]).all()


@pytest.mark.parametrize("name", CACHE_FORMATS)
def test_error_of_the_logits(name: str, library: NativeLibrary, tmp_path: Path) -> None:
    """Prefill chunks, decode rows and block boundaries, with stale NaN in the cache."""
    spec = save_llama(tmp_path)
    expected = torch_logits(tmp_path, spec, None)
    with_codes = torch_logits(tmp_path, spec, name)
    assert 0 < error_of(with_codes, expected) <= ERRORS[name]
    assert error_of(native_logits(tmp_path, spec, name, library), expected) <= ERRORS[name]
    # The native kernels also round to bfloat16, which changes the logits less than the codes do.
    bf16 = native_logits(tmp_path, spec, None, library)
    assert error_of(bf16, expected) < 0.01


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss", "bloom"])
@pytest.mark.parametrize("name", CACHE_FORMATS)
def test_windows_caps_sinks_and_biases_in_torch(family: str, name: str, tmp_path: Path) -> None:
    save_checkpoint(family, tmp_path)
    spec = spec_of(tmp_path)
    expected, found = (torch_logits(tmp_path, spec, choice) for choice in (None, name))
    # A small error can change the experts of a token, so the median of the tokens is compared.
    errors = (found - expected).square().mean(-1).sqrt()
    assert 0 < errors.median() / expected.std() <= 2 * ERRORS[name]


@pytest.mark.parametrize("variant", ["deepseek_v2", "qwen3_next", "t5"])
@pytest.mark.parametrize("name", CACHE_FORMATS)
def test_layout_of_other_mixers(variant: str, name: str, tmp_path: Path) -> None:
    """Latent attention, attention beside recurrent states, and cross-attention."""
    save_mixer_variant(variant, tmp_path)
    spec = spec_of(tmp_path)
    cache = KVCache.allocate(
        spec, 4, 8, torch.float32, "cpu", 2, cache_coding(name, tmp_path, spec)
    )
    layers = (*cache.layers, *cache.cross_layers)
    held = sum(tensor.nbytes for layer in layers for tensor in layer.owned)
    assert held == 4 * 8 * kv_bytes_per_token(spec, "float32", name)
    assert all(state.window.dtype == torch.float32 for state in cache.states)
    for layer in layers:
        check_layer(cache, layer)


def check_layer(cache: KVCache, layer: LayerCache) -> None:
    """Write a layer, copy a block of all layers, and read the layer."""
    slots = torch.tensor([3, 17, 9])
    key = torch.from_numpy(ordinary(3, *layer.key.shape[2:])).clamp(-9, 9)
    value = torch.from_numpy(ordinary(3, *layer.value.shape[2:], seed=1)).clamp(-9, 9)
    if layer.shares_values:
        value = key[..., : value.shape[-1]]
    layer.write(key, value, slots)
    if any(layer is other for other in cache.layers):
        cache.copy_blocks(torch.tensor([2]), torch.tensor([3]))
        slots[1] += 8
    for found, written in zip(layer.gather(slots), (key, value), strict=True):
        assert (found - written).abs().max() <= 0.13 * written.abs().max()


def test_scales_of_the_checkpoint(library: NativeLibrary, tmp_path: Path) -> None:
    """Without its scale, the keys of the first layer would saturate."""
    spec = save_llama(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    prefix = "model.layers.0.self_attn"
    weights[f"{prefix}.k_proj.weight"] *= 1e4
    weights[f"{prefix}.q_proj.weight"] /= 1e4
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    expected = torch_logits(tmp_path, spec, None)
    assert error_of(torch_logits(tmp_path, spec, "fp8_e4m3fn"), expected) > 0.06
    assert error_of(native_logits(tmp_path, spec, "fp8_e4m3fn", library), expected) > 0.06
    scales = {f"{prefix}.k_scale": torch.tensor(1e3), f"{prefix}.v_scale": torch.tensor([0.01])}
    add_scales(tmp_path, scales)
    assert error_of(torch_logits(tmp_path, spec, "fp8_e4m3fn"), expected) <= 0.05
    assert error_of(native_logits(tmp_path, spec, "fp8_e4m3fn", library), expected) <= 0.05


def test_names_of_scales(tmp_path: Path) -> None:
    spec = save_llama(tmp_path, num_hidden_layers=3)
    assert cache_coding(None, tmp_path, spec) is None
    coding = cache_coding("fp8_e5m2", tmp_path, spec)
    assert coding is not None
    assert (coding.scales, coding.from_checkpoint) == ((CacheScales(),) * 3, False)
    names = {"1.self_attn.kv_scale": 0.5, "1.self_attn.v_scale": 2.0, "2.self_attn.k_scale": 4.0}
    stored = {f"model.layers.{name}": torch.tensor(scale) for name, scale in names.items()}
    add_scales(tmp_path, stored)
    coding = cache_coding("fp8_e5m2", tmp_path, spec)
    assert coding is not None
    assert coding.scales == (CacheScales(), CacheScales(0.5, 2.0), CacheScales(4.0, 1.0))
    assert coding.from_checkpoint
    integers = cache_coding("int8", tmp_path, spec)
    assert integers is not None
    assert not integers.from_checkpoint


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (torch.tensor(0.0), "is 0.0, but a scale of the KV cache must be a positive finite number"),
        (torch.tensor(-1.0), "is -1.0, but"),
        (torch.tensor(torch.nan), "is nan, but"),
        (torch.ones(2), "contains 2 scales of the KV cache, but one scale per layer is supported"),
        (torch.tensor(1, dtype=torch.int32), "has the dtype I32"),
    ],
)
def test_a_wrong_scale_is_rejected_by_name(scale: Tensor, message: str, tmp_path: Path) -> None:
    spec = save_llama(tmp_path)
    name = "model.layers.1.self_attn.k_scale"
    add_scales(tmp_path, {name: scale})
    with pytest.raises(ModelError) as raised:
        cache_coding("fp8_e4m3fn", tmp_path, spec)
    assert f"model.safetensors: tensor `{name}` {message}" in str(raised.value)
    assert cache_coding("int8", tmp_path, spec) is not None


def test_commands_find_a_wrong_scale(tmp_path: Path) -> None:
    """`tgi doctor` and `tgi inspect` call `check`."""
    spec = save_llama(tmp_path)
    add_scales(tmp_path, {"model.layers.0.self_attn.k_scale": torch.tensor(0.0)})
    backend = tgi_backend()
    for name in (None, "int8"):
        backend.check(spec, EngineConfig("cpu", str(tmp_path), spec, kv_cache_dtype=name))
    with pytest.raises(ModelError, match="must be a positive finite number"):
        backend.check(spec, EngineConfig("cpu", str(tmp_path), spec, kv_cache_dtype="fp8_e5m2"))
