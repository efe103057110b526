"""Products with quantized weights and products of experts equal products in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.backends.triton.interpreter import checked
from tgi.checkpoints.quantized import CodeKind, QuantizedFormat, QuantizedMatrix, ScaleKind
from tgi_triton import linear

PRODUCTS = linear.Products()
INTEGER = CodeKind.INTEGER
FORMATS = {
    "int4 symmetric": QuantizedFormat(INTEGER, 4, 32, scale_kind=ScaleKind.BF16, zero=8),
    "int4 with zeros": QuantizedFormat(INTEGER, 4, 128, scale_kind=ScaleKind.F16, has_zeros=True),
    "int4 with offsets": QuantizedFormat(INTEGER, 4, 32, has_offsets=True),
    "int3": QuantizedFormat(INTEGER, 3, 64, scale_kind=ScaleKind.F16, zero=4),
    "int4 with order": QuantizedFormat(INTEGER, 4, 64, zero=8, has_input_order=True),
    "int8 per output": QuantizedFormat(INTEGER, 8, None, zero=128),
    "int6 in groups of 16": QuantizedFormat(INTEGER, 6, 16, scale_kind=ScaleKind.F16, zero=32),
    "nf4": QuantizedFormat(CodeKind.NF4, 4, 64),
    "fp4": QuantizedFormat(CodeKind.FP4, 4, 64),
    "mxfp4": QuantizedFormat(CodeKind.E2M1, 4, 32, scale_kind=ScaleKind.E8M0),
    "e4m3": QuantizedFormat(CodeKind.E4M3, 8, None),
    "e4m3 in blocks": QuantizedFormat(CodeKind.E4M3, 8, 128),
    "e5m2": QuantizedFormat(CodeKind.E5M2, 8, None),
}


def random_matrix(form, outputs, inputs, seed=0):
    random = np.random.default_rng(seed)
    groups = form.num_groups(inputs)
    codes = random.integers(0, 1 << form.bits, (outputs, inputs), dtype=np.uint8)
    if form.kind in {CodeKind.E4M3, CodeKind.E5M2}:
        codes &= 0xBF  # no infinity, no NaN, and no number above 2
    scales = random.uniform(0.5, 2.0, (outputs, groups)).astype(np.float32)
    if form.scale_kind is ScaleKind.E8M0:
        scales = np.exp2(np.round(np.log2(scales)))
    elif form.scale_kind is not ScaleKind.F32:
        scales = torch.from_numpy(scales).bfloat16().float().numpy()
    return QuantizedMatrix(
        form,
        codes,
        scales,
        random.integers(0, 1 << form.bits, scales.shape, np.uint8) if form.has_zeros else None,
        random.normal(size=scales.shape).astype(np.float32) if form.has_offsets else None,
        random.permutation(inputs).astype(np.int32) if form.has_input_order else None,
    )


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_close(actual, expected, limit):
    error = (actual.double() - expected).abs().max() / expected.abs().max()
    assert error <= limit, error


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 70, 264), (5, 64, 128), (65, 33, 72)])
def test_quantized_products(name, rows, outputs, inputs):
    form = FORMATS[name]
    matrix = random_matrix(form, outputs, inputs)
    x, bias = normal(1, rows, inputs), normal(2, outputs)
    expected = x.double() @ torch.from_numpy(matrix.dequantize()).double().T + bias
    device = linear.DeviceMatrix.of_codes([matrix], "cpu")
    with checked():
        assert_close(PRODUCTS.of_rows(x, device, bias), expected, 2e-6)


def test_weights_are_rounded_as_in_a_dequantized_model():
    matrix = random_matrix(FORMATS["int4 with zeros"], 64, 512)
    x = normal(1, 3, 512).bfloat16()
    weight = torch.from_numpy(matrix.dequantize()).bfloat16()
    device = linear.DeviceMatrix.of_codes([matrix], "cpu")
    with checked():
        actual = PRODUCTS.of_rows(x, device, None)
    assert_close(actual, x.double() @ weight.double().T, 4e-3)
    assert actual.dtype == torch.bfloat16


def test_codes_and_scales_are_read_once():
    """One row reads no more than 1.1 times the stored bytes."""
    matrix = random_matrix(FORMATS["int4 symmetric"], 128, 1024)
    device = linear.DeviceMatrix.of_codes([matrix], "cpu")
    x = normal(1, 1, 1024)
    with checked() as traffic:
        linear.Products(wanted_programs=1).of_rows(x, device, None)
    assert device.num_bytes == 128 * 1024 // 2 + 128 * 32 * 2
    rows_of_blocks = 2 * x.nbytes  # every block of outputs reads the row
    scales_per_input = 128 * 1024 * 2  # a block of inputs has two groups
    assert traffic.loaded == 128 * 1024 // 2 + scales_per_input + rows_of_blocks


@pytest.mark.parametrize("form", [None, "int4 symmetric", "mxfp4", "e4m3"])
@pytest.mark.parametrize(("tokens", "per_token", "num_experts"), [(1, 2, 8), (7, 4, 4), (90, 2, 3)])
def test_products_of_experts(form, tokens, per_token, num_experts):
    outputs, inputs = 48, 96
    if form is None:
        weight = normal(3, num_experts, outputs, inputs)
        device = linear.DeviceMatrix.of_numbers(weight)
    else:
        experts = [random_matrix(FORMATS[form], outputs, inputs, i) for i in range(num_experts)]
        weight = torch.from_numpy(np.stack([expert.dequantize() for expert in experts]))
        device = linear.DeviceMatrix.of_codes(experts, "cpu")
    draws = torch.Generator().manual_seed(5)
    chosen = torch.stack(
        [torch.randperm(num_experts, generator=draws)[:per_token] for _ in range(tokens)]
    )
    x, bias = normal(1, tokens, inputs), normal(2, num_experts, outputs)
    expected = torch.einsum("ti,tkoi->tko", x.double(), weight.double()[chosen])
    expected = (expected + bias.double()[chosen]).flatten(0, 1)
    tiles = linear.tiles_of_experts(chosen, num_experts)
    with checked():
        actual = PRODUCTS.of_experts(x, device, bias, tiles, per_token)
    assert_close(actual, expected, 2e-6)


def test_the_number_of_tiles_depends_on_sizes_only():
    """A captured graph is replayed with other experts, so no size may depend on the choice."""
    for chosen in ([[0, 1]] * 40, [[2, 3]] * 40, [[0, 7]] * 20 + [[3, 5]] * 20):
        tiles = linear.tiles_of_experts(torch.tensor(chosen), 8)
        assert len(tiles.lines) == (8 + 80 // 16) * 16
        used = tiles.lines[tiles.lines >= 0]
        assert sorted(used.tolist()) == list(range(80))


def test_an_order_of_inputs_is_applied():
    matrix = random_matrix(FORMATS["int4 with order"], 32, 64)
    wrong = replace(matrix, input_order=np.arange(64, dtype=np.int32))
    x = normal(1, 2, 64)
    expected = x.double() @ torch.from_numpy(matrix.dequantize()).double().T
    assert_close(
        PRODUCTS.of_rows(x, linear.DeviceMatrix.of_codes([matrix], "cpu"), None), expected, 2e-6
    )
    with pytest.raises(AssertionError):
        assert_close(
            PRODUCTS.of_rows(x, linear.DeviceMatrix.of_codes([wrong], "cpu"), None),
            expected,
            2e-6,
        )
