"""Norms, rotary embeddings, activations and cache writes equal the reference operations."""

import pytest
import torch

from tests.backends.triton.interpreter import checked
from tgi_torch import ops
from tgi_torch.attention.kv_cache import LayerCache
from tgi_torch.model.rotary import Rotation
from tgi_triton import elementwise
from tgi_triton.kernels import elementwise as kernels

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
KINDS = ["silu", "gelu", "gelu_tanh", "gelu_quick", "relu", "relu_squared", "silu_clamped"]


def random(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_equal(actual, expected):
    """Equal up to one unit in the last place of the dtype, because the order of sums differs."""
    assert actual.dtype == expected.dtype
    eps = torch.finfo(actual.dtype).eps
    torch.testing.assert_close(actual, expected, rtol=2 * eps, atol=8e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 64), (2, 5, 96), (1, 24), (7, 1000)])
def test_norms(shape, dtype):
    x = random(1, *shape, dtype=dtype) * 3
    weight, bias = (random(seed, shape[-1], dtype=dtype) for seed in (2, 3))
    with checked():
        assert_equal(elementwise.rms_norm(x, weight, 1e-5), ops.rms_norm(x, weight, 1e-5))
        assert_equal(
            elementwise.rms_norm_unit_offset(x, weight, 1e-6),
            ops.rms_norm_unit_offset(x, weight, 1e-6),
        )
        for w, b in ((weight, bias), (weight, None), (None, None)):
            assert_equal(elementwise.layer_norm(x, w, b, 1e-5), ops.layer_norm(x, w, b, 1e-5))


def test_norm_of_a_part_of_a_wider_row():
    part = random(1, 6, 4, 50)[:, 1:3, 10:42]
    weight = random(2, 32)
    assert_equal(elementwise.rms_norm(part, weight, 1e-5), ops.rms_norm(part, weight, 1e-5))
    column = random(4, 32, 9).T
    assert_equal(elementwise.rms_norm(column, weight, 1e-5), ops.rms_norm(column, weight, 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("heads", "size", "rotary"), [(1, 64, 64), (9, 80, 32), (17, 96, 96)])
def test_rotary(heads, size, rotary, interleaved, dtype):
    fused = random(1, 5, heads + 3, size, dtype=dtype)
    expected = fused.clone()
    angles = random(2, 5, 1, rotary // 2)
    rotation = Rotation(angles.cos(), angles.sin())
    ops.rotary(expected[:, :heads], rotation, interleaved)
    with checked():
        elementwise.rotary(fused[:, :heads], rotation, interleaved)
    assert_equal(fused, expected)
    assert torch.equal(fused[:, heads:], expected[:, heads:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_activations(kind, dtype):
    x = random(1, 3, 2 * 1030, dtype=dtype) * 5
    eps = torch.finfo(dtype).eps
    with checked():
        gated, plain = elementwise.gated_activation(x, kind), elementwise.activation(x, kind)
    # 1 + erf(x) loses digits if x is far below zero.
    tolerance = {"rtol": 4 * eps, "atol": max(4 * eps, 4e-6)}
    torch.testing.assert_close(gated, ops.gated_activation(x, kind), **tolerance)
    torch.testing.assert_close(plain, ops.activation(x, kind), **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_write_kv(dtype):
    fused = random(1, 4, 3 * 2 * 24, dtype=dtype)
    key = fused[:, :48].view(4, 2, 24)
    value = fused[:, 48:96].view(4, 2, 24)
    slots = torch.tensor([9, 0, 3, 11])
    expected = LayerCache(*(torch.zeros(3, 4, 2, 24, dtype=dtype) for _ in range(2)))
    actual = LayerCache(expected.key.clone(), expected.value.clone())
    ops.write_kv(key, value, expected, slots)
    with checked() as traffic:
        elementwise.write_kv(key, value, actual, slots)
    assert torch.equal(actual.key, expected.key)
    assert torch.equal(actual.value, expected.value)
    own_bytes = 2 * key.numel() * dtype.itemsize
    assert traffic.stored == own_bytes
    assert traffic.loaded == own_bytes + 2 * 2 * slots.nbytes  # each head reads the slot


def test_latent_attention_stores_its_vector_once():
    key = random(1, 3, 1, 40)
    tensor = torch.zeros(2, 4, 1, 40)
    cache = LayerCache(tensor, tensor[..., :32])
    with checked() as traffic:
        elementwise.write_kv(key, key[..., :32], cache, torch.tensor([1, 2, 7]))
    assert traffic.stored == key.nbytes
    assert torch.equal(tensor.flatten(0, 1)[[1, 2, 7]], key)


@pytest.mark.parametrize("kind", KINDS)
def test_nan_remains_nan(kind):
    x = torch.tensor([[float("nan"), 1.0, 2.0, float("nan")]])
    assert elementwise.activation(x, kind).isnan().tolist() == [[True, False, False, True]]
    assert elementwise.gated_activation(x, kind).isnan().tolist() == [[True, True]]


def test_empty_batches():
    x = torch.empty(0, 64)
    none = Rotation(torch.empty(0, 1, 4), torch.empty(0, 1, 4))
    assert elementwise.rms_norm(x, torch.ones(64), 1e-5).shape == (0, 64)
    assert elementwise.layer_norm(x, None, None, 1e-5).shape == (0, 64)
    assert elementwise.activation(x, "silu").shape == (0, 64)
    assert elementwise.gated_activation(x, "silu").shape == (0, 32)
    elementwise.rotary(torch.empty(0, 2, 8), none, interleaved=False)


def test_the_interpreter_rounds_to_nearest():
    """Without the correction, half of the numbers would be one unit too small."""
    x = random(1, 4096) * 1e3
    x[:4] = torch.tensor([float("nan"), float("inf"), 1.00390625, 1.01171875])  # two ties
    out = torch.empty(4096, dtype=torch.bfloat16)
    kernels.activate[(4,)](x.relu(), out, 4096, KIND="relu", BLOCK=1024)
    torch.testing.assert_close(out, x.relu().bfloat16(), rtol=0, atol=0, equal_nan=True)
