"""Matrices multiplied by torch's kernels, for many sizes and for pieces along both axes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.backends.checkpoints import save_variant
from tests.backends.cpu.quantized.matrices import FORMS, random_matrix
from tgi.architectures import ModelSpec, load_spec
from tgi.architectures.parameter_names import tensor_shapes
from tgi_torch.model.decoder import build_decoder
from tgi_torch.ops import REFERENCE
from tgi_torch.weights.quantization import quantize
from tgi_torch.weights.quantized_matrix import QuantizedMatrix
from tgi_torch.weights.weight_formats import (
    FP8,
    INT4,
    INT8,
    NF4,
    QUANTIZATIONS,
    WeightFormat,
    common_format,
    is_quantized,
)

FORMATS = pytest.mark.parametrize(
    "weight_format", [INT8, INT4, NF4, FP8], ids=lambda weight_format: weight_format.name
)
SHAPES = [(3, 2), (33, 7), (64, 64), (100, 131), (48, 256)]


@FORMATS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_products(shape: tuple[int, int], dtype: torch.dtype, weight_format: WeightFormat) -> None:
    outputs, inputs = shape
    generator = torch.Generator().manual_seed(0)
    weight, bias = (
        torch.randn(shape, generator=generator),
        torch.randn(outputs, generator=generator).to(dtype),
    )
    weight[-1] = 0
    matrix = QuantizedMatrix(
        {"a": outputs // 3, "b": outputs - outputs // 3}, inputs, weight_format, dtype
    )
    for parameter, part in (("b", weight[outputs // 3 :]), ("a", weight[: outputs // 3])):
        middle = inputs // 2
        matrix.write(parameter, 1, middle, part[:, middle:])
        matrix.write(parameter, 1, 0, part[:, :middle])
    used = weight_format
    if weight_format == INT8:
        used = replace(INT8, form=replace(INT8.form, group_inputs=None))
    exact = torch.from_numpy(quantize(weight, used).dequantize())
    for num_rows in (1, 5, 17):
        x = torch.randn(num_rows, inputs, generator=generator).to(dtype)
        expected = x.float() @ exact.T
        norms = x.float().norm(dim=1, keepdim=True) * exact.norm(dim=1) + 1e-30
        assert ((matrix.multiply(x, None).float() - expected).abs() / norms).max() < 0.01
        assert torch.equal(matrix.multiply(x, bias), matrix.multiply(x, None) + bias)
    if weight_format != INT4:
        assert torch.allclose(
            matrix.lookup(torch.tensor([outputs - 1, 0])).float(),
            exact[[outputs - 1, 0]],
            rtol=0.01,
        )


@FORMATS
def test_memory(weight_format: WeightFormat) -> None:
    matrix = QuantizedMatrix({"a": 128}, 512, weight_format, torch.bfloat16)
    matrix.write("a", 0, 0, torch.randn(128, 512))
    # torch's 4-bit format also stores zeros.
    assert matrix.num_bytes == pytest.approx(weight_format.num_bytes(128, 512), rel=0.12)


@pytest.mark.parametrize("name", FORMS)
def test_canonical_forms(name: str) -> None:
    whole = random_matrix(FORMS[name], (50, 160))
    weight_format = common_format([whole.format], 160)
    assert weight_format is not None
    matrix = QuantizedMatrix({"a": 20, "b": 30}, 160, weight_format, torch.float32)
    matrix.write_quantized("b", 0, whole.rows(slice(20, 50)))
    matrix.write_quantized("a", 11, whole.rows(slice(11, 20)))
    matrix.write_quantized("a", 0, whole.rows(slice(0, 11)))
    exact = torch.from_numpy(whole.dequantize())
    x = torch.randn(3, 160, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(matrix.multiply(x, None), x @ exact.T, rtol=1e-5, atol=1e-3)
    ids = torch.tensor([49, 0, 20])
    torch.testing.assert_close(matrix.lookup(ids), exact[ids], rtol=1e-5, atol=1e-5)
    assert matrix.num_bytes <= 1.01 * weight_format.num_bytes(50, 160)


def test_the_memory_plan_names_the_quantized_matrices(tmp_path: Path) -> None:
    save_variant("gemma4_text", tmp_path)
    spec = load_spec(tmp_path)
    assert isinstance(spec, ModelSpec)
    decoder = build_decoder(spec, REFERENCE, torch.float32, "cpu", QUANTIZATIONS["int8"])
    shapes = tensor_shapes(spec)
    quantized = decoder.parameters.quantized.keys()
    assert "embedding.layer_inputs.weight" in quantized
    assert quantized == {name for name, shape in shapes.items() if is_quantized(name, shape)}
