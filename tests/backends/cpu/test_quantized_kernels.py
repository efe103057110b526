"""Products with quantized weights compared with float64, and codes compared with plain torch."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from tests.backends.cpu.native_kernels import multiply
from tgi_cpu.native import NativeLibrary
from tgi_cpu.native_engine import Engine
from tgi_cpu.native_matrices import MatrixPlan, QuantizedMatrix
from tgi_cpu.native_records import QuantizedRecord
from tgi_torch.weights.quantization import quantize
from tgi_torch.weights.weight_formats import INT4, INT8, WeightFormat

FORMATS = pytest.mark.parametrize(
    "weight_format", [INT8, INT4], ids=lambda weight_format: weight_format.name
)
SHAPES = [(1, 2), (33, 7), (64, 64), (100, 131), (48, 256), (544, 192)]  # outputs, inputs
ROWS = [1, 2, 3, 5, 6, 8, 9, 13, 16, 24, 25, 241]  # on both sides of every change of algorithm
MAX_EXACT_ROWS = 24  # rows for which the byte products are used

Doubles = npt.NDArray[np.float64]


def packed(library: NativeLibrary, weight: Tensor, weight_format: WeightFormat) -> QuantizedMatrix:
    """Quantize `weight` [outputs, inputs] in one piece."""
    plan = MatrixPlan({"weight": weight.shape[0]}, weight.shape[1])
    matrix = QuantizedMatrix(
        plan, library, weight_format, library.allocate(plan.num_bytes(weight_format))
    )
    matrix.write("weight", 0, 0, weight)
    return matrix


def unpacked(matrix: QuantizedMatrix, weight_format: WeightFormat) -> Tensor:
    """Dequantize the matrix to float32 [outputs, inputs]."""
    plan = matrix.plan
    half_panels, groups = plan.padded_columns // 16, weight_format.num_groups(plan.num_inputs)
    codes = matrix.codes.reshape(half_panels, groups, -1, 16, 4)
    if weight_format.bits == 4:
        codes = np.concatenate([codes & 15, codes >> 4], -1)
    integers = (
        codes.transpose(0, 3, 1, 2, 4).reshape(half_panels * 16, groups, -1).astype(np.float32)
        - weight_format.zero
    )
    scales = torch.from_numpy(matrix.scales.view(np.int16)).view(torch.bfloat16).float()
    scales = (
        scales.view(half_panels, groups, 16).transpose(1, 2).reshape(half_panels * 16, groups, 1)
    )
    return (torch.from_numpy(integers) * scales).flatten(1)[: plan.num_columns, : plan.num_inputs]


def relative_error(found: npt.NDArray[np.float32], rows: Tensor, weight: Tensor) -> float:
    """The greatest error, divided by the norms of the factors."""
    exact = rows.double().numpy() @ weight.double().numpy().T
    norms = rows.double().norm(dim=1).numpy()[:, None] * weight.double().norm(dim=1).numpy()[None]
    return float((np.abs(found[:, : len(weight)] - exact) / (norms + 1e-300)).max())


@FORMATS
@pytest.mark.parametrize("shape", SHAPES)
def test_codes_equal_those_of_torch(
    shape: tuple[int, int], weight_format: WeightFormat, library: NativeLibrary
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight[0] = 0
    found = unpacked(packed(library, weight, weight_format), weight_format)
    assert torch.equal(found, quantize(weight, weight_format).dequantize())


@FORMATS
def test_pieces_may_be_divided_by_outputs_or_inputs(
    weight_format: WeightFormat, library: NativeLibrary
) -> None:
    weight = torch.randn(40, 300)
    plan = MatrixPlan({"gate": 20, "up": 20}, 300, gated=True)
    by_outputs, by_inputs = (
        QuantizedMatrix(
            plan, library, weight_format, library.allocate(plan.num_bytes(weight_format))
        )
        for _ in range(2)
    )
    for parameter, part in (("gate", weight[:20]), ("up", weight[20:])):
        for start in (0, 7):
            by_outputs.write(parameter, 0, start, part[start : start + (7 if start == 0 else 13)])
        for start in (0, 128, 256):
            by_inputs.write(parameter, 1, start, part[:, start : start + 128])
    assert np.array_equal(by_outputs.codes, by_inputs.codes)
    assert np.array_equal(by_outputs.scales, by_inputs.scales)
    columns = np.concatenate([plan.columns("gate"), plan.columns("up")])
    assert torch.equal(
        unpacked(by_outputs, weight_format)[columns], quantize(weight, weight_format).dequantize()
    )


@FORMATS
@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_products(
    shape: tuple[int, int],
    num_rows: int,
    weight_format: WeightFormat,
    library: NativeLibrary,
    engine: Engine,
) -> None:
    generator = torch.Generator().manual_seed(num_rows)
    weight, rows = (
        torch.randn(shape, generator=generator),
        torch.randn(num_rows, shape[1], generator=generator).bfloat16(),
    )
    weight[-1] = 0
    matrix = packed(library, weight, weight_format)
    found = multiply(engine, matrix, rows)
    # Byte products are exact for 16-bit rows. Unpacked panels are rounded to bfloat16.
    assert relative_error(found, rows, unpacked(matrix, weight_format)) < (
        3e-5 if num_rows <= MAX_EXACT_ROWS else 4e-3
    )
    assert not found[:, len(weight) - 1 :].any()


@FORMATS
@pytest.mark.parametrize("num_rows", [2, 7, 8, 9, 11, 16, 17, MAX_EXACT_ROWS])
@pytest.mark.parametrize("shape", [(33, 7), (100, 131), (544, 192)])
def test_a_row_does_not_depend_on_the_others(
    shape: tuple[int, int],
    num_rows: int,
    weight_format: WeightFormat,
    library: NativeLibrary,
    engine: Engine,
) -> None:
    generator = torch.Generator().manual_seed(num_rows)
    matrix = packed(library, torch.randn(shape, generator=generator), weight_format)
    rows = torch.randn(num_rows, shape[1], generator=generator).bfloat16()
    together = multiply(engine, matrix, rows)
    for number in range(num_rows):
        alone = multiply(engine, matrix, rows[number : number + 1])
        assert np.array_equal(together[number], alone[0])


@FORMATS
@pytest.mark.parametrize("num_rows", [1, 8, MAX_EXACT_ROWS, 60])
def test_one_large_value_does_not_affect_other_groups(
    num_rows: int, weight_format: WeightFormat, library: NativeLibrary, engine: Engine
) -> None:
    """As in some models, a few inputs are a thousand times as large as the others.

    These inputs have a common scale.
    """
    rows, weight = torch.randn(num_rows, 256).bfloat16(), torch.randn(32, 256)
    rows[:, :32] *= 1000
    weight[:, :64] = 0
    matrix = packed(library, weight, weight_format)
    found = multiply(engine, matrix, rows)
    rows[:, :64] = 0
    assert relative_error(found, rows, unpacked(matrix, weight_format)) < (
        3e-5 if num_rows <= MAX_EXACT_ROWS else 4e-3
    )


@FORMATS
@pytest.mark.parametrize("num_rows", [1, 8, 60])
@pytest.mark.parametrize("magnitude", [1e-38, 1e-20, 1e20, 1e34])
def test_extreme_weights(
    magnitude: float,
    num_rows: int,
    weight_format: WeightFormat,
    library: NativeLibrary,
    engine: Engine,
) -> None:
    rows, weight = torch.randn(num_rows, 64).bfloat16(), torch.randn(32, 64) * magnitude
    matrix = packed(library, weight, weight_format)
    found = multiply(engine, matrix, rows)
    assert np.isfinite(found).all()
    if magnitude > 1e-30:
        assert relative_error(found, rows, unpacked(matrix, weight_format)) < 4e-3


@FORMATS
@pytest.mark.parametrize("num_rows", [2, 60])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_value_affects_only_its_row(
    value: float, num_rows: int, weight_format: WeightFormat, library: NativeLibrary, engine: Engine
) -> None:
    rows, weight = torch.randn(num_rows, 96).bfloat16(), torch.randn(32, 96)
    rows[1, 70] = value
    found = multiply(engine, packed(library, weight, weight_format), rows)
    assert not np.isfinite(found[1]).any()
    assert np.isfinite(np.delete(found, 1, 0)).all()


@FORMATS
def test_a_non_finite_weight_is_visible(
    weight_format: WeightFormat, library: NativeLibrary, engine: Engine
) -> None:
    rows, weight = torch.randn(3, 96).bfloat16(), torch.randn(32, 96)
    weight[5, 90] = float("nan")
    found = multiply(engine, packed(library, weight, weight_format), rows)
    assert not np.isfinite(found[:, 5]).any()
    assert np.isfinite(np.delete(found, 5, 1)).all()


def test_records_have_the_sizes_of_the_library(library: NativeLibrary) -> None:
    assert library.functions.tgi_record_size(3) == ctypes.sizeof(QuantizedRecord)
