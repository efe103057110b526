"""Products with weights that `--quantize` quantizes, compared with float64, and the quantized
weights compared with those of plain torch.
"""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from tests.backends.cpu.native_kernels import multiply
from tests.backends.cpu.quantized.matrices import allocate
from tests.backends.cpu.quantized.matrices import quantized_natively as packed
from tgi_cpu.native import NativeLibrary, load_library
from tgi_cpu.native_engine import Engine
from tgi_cpu.native_matrices import MatrixPlan
from tgi_cpu.native_quantized import QuantizedMatrix
from tgi_cpu.native_records import QuantizedRecord
from tgi_torch.weights.quantization import quantize
from tgi_torch.weights.weight_formats import FP4, FP8, INT4, INT8, NF4, WeightFormat

FORMATS = pytest.mark.parametrize(
    "weight_format", [INT8, INT4, NF4, FP4, FP8], ids=lambda weight_format: weight_format.name
)
SHAPES = [(1, 2), (33, 7), (64, 64), (100, 131), (48, 256), (544, 192)]  # outputs, inputs
ROWS = [1, 2, 3, 5, 6, 8, 9, 13, 16, 24, 25, 241]  # on both sides of every change of algorithm
MAX_EXACT_ROWS = 24  # rows for which the codes are multiplied


def unpacked(matrix: QuantizedMatrix) -> Tensor:
    """Dequantize the matrix to float32 [outputs, inputs]."""
    return torch.from_numpy(matrix.dequantize())[: matrix.plan.num_columns]


def tolerance(weight_format: WeightFormat, num_rows: int) -> float:
    """Byte products are exact for 16-bit rows. Tables and unpacked panels are rounded to
    bfloat16.
    """
    is_exact = num_rows <= MAX_EXACT_ROWS and weight_format in (INT8, INT4, FP8)
    return 3e-5 if is_exact else 4e-3


def relative_error(found: npt.NDArray[np.float32], rows: Tensor, weight: Tensor) -> float:
    """The greatest error, divided by the norms of the factors."""
    exact = rows.double().numpy() @ weight.double().numpy().T
    norms = rows.double().norm(dim=1).numpy()[:, None] * weight.double().norm(dim=1).numpy()[None]
    return float((np.abs(found[:, : len(weight)] - exact) / (norms + 1e-300)).max())


@FORMATS
@pytest.mark.parametrize("shape", SHAPES)
def test_weights_equal_those_of_torch(
    shape: tuple[int, int], weight_format: WeightFormat, library: NativeLibrary
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight[0] = 0
    found = unpacked(packed(library, weight, weight_format))
    expected = torch.from_numpy(quantize(weight, weight_format).dequantize())
    assert not found[0].any()
    if weight_format != INT4:
        assert torch.equal(found, expected)
        return
    # The order of float32 sums can change the choice between two candidates of similar error.
    errors = [(weights - weight.float()).square().sum() for weights in (found, expected)]
    assert errors[0] <= 1.01 * errors[1]


def test_weights_that_had_four_bits_are_kept(library: NativeLibrary) -> None:
    """As in a GGUF file of type Q4_1: every group of 32 has 16 levels with an arbitrary offset."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 16, (64, 4, 32), generator=generator).float()
    scales = torch.rand(64, 4, 1, generator=generator) + 0.5
    weight = (levels * scales - 7 * scales - torch.rand(64, 4, 1, generator=generator)).flatten(1)
    error = (unpacked(packed(library, weight, INT4)) - weight).norm() / weight.norm()
    usual = torch.rand(64, 128, generator=generator) - 0.5
    usual_error = (unpacked(packed(library, usual, INT4)) - usual).norm() / usual.norm()
    assert error < usual_error / 2


@FORMATS
def test_pieces_may_be_divided_by_outputs_or_inputs(
    weight_format: WeightFormat, library: NativeLibrary
) -> None:
    weight = torch.randn(40, 300)
    plan = MatrixPlan({"gate": 20, "up": 20}, 300, gated=True)
    by_outputs, by_inputs = (allocate(plan, library, weight_format) for _ in range(2))
    for parameter, part in (("gate", weight[:20]), ("up", weight[20:])):
        for start in (0, 7):
            by_outputs.write(parameter, 0, start, part[start : start + (7 if start == 0 else 13)])
        for start in (0, 128, 256):
            by_inputs.write(parameter, 1, start, part[:, start : start + 128])
    assert np.array_equal(by_outputs.codes, by_inputs.codes)
    assert np.array_equal(by_outputs.dequantize(), by_inputs.dequantize())
    columns = np.concatenate([plan.columns("gate"), plan.columns("up")])
    found = torch.from_numpy(by_outputs.dequantize())[columns]
    assert torch.equal(found, unpacked(packed(library, weight, weight_format)))


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
    assert relative_error(found, rows, unpacked(matrix)) < tolerance(weight_format, num_rows)
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
    assert relative_error(found, rows, unpacked(matrix)) < tolerance(weight_format, num_rows)


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
        assert relative_error(found, rows, unpacked(matrix)) < 4e-3


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


def test_an_old_library_is_rejected(tmp_path: Path) -> None:
    """A library without a version number, and a library with another number."""
    source = 'extern "C" int other() { return 0; }'
    for content in (source, source + ' extern "C" int tgi_version() { return -1; }'):
        (tmp_path / "old.cpp").write_text(content)
        command = ["c++", "-shared", "-fPIC", "-o", tmp_path / "_native.so", tmp_path / "old.cpp"]
        subprocess.run(command, check=True)
        with pytest.raises(ImportError, match="Build the library again"):
            load_library(tmp_path)
        (tmp_path / "_native.so").unlink()


def test_records_have_the_sizes_of_the_library(library: NativeLibrary) -> None:
    assert library.functions.tgi_record_size(3) == ctypes.sizeof(QuantizedRecord)
