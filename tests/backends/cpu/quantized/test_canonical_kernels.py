"""Products with every canonical form of quantized weights, compared with the dequantized weights in
float64.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.backends.cpu.native_kernels import multiply
from tests.backends.cpu.quantized.matrices import FORMS, allocate, native_matrix, random_matrix
from tgi.checkpoints.quantized import CodeKind, QuantizedFormat
from tgi_cpu.native import NativeLibrary
from tgi_cpu.native_engine import Engine
from tgi_cpu.native_matrices import MatrixPlan
from tgi_torch.weights.weight_formats import common_format

EVERY_FORM = pytest.mark.parametrize("name", FORMS)
SHAPES = [(1, 2), (33, 7), (100, 131), (544, 300)]  # outputs, inputs
ROWS = [1, 2, 5, 8, 9, 24, 25, 100]  # on both sides of every change of algorithm
MAX_EXACT_ROWS = 24
# Products are exact for codes that are integers or have few bits. The entries of the other tables
# and unpacked panels are rounded to bfloat16.
ROUNDED = {CodeKind.NF4, CodeKind.FP4}


def tolerance(form: QuantizedFormat, num_rows: int) -> float:
    return 3e-5 if num_rows <= MAX_EXACT_ROWS and form.kind not in ROUNDED else 4e-3


@EVERY_FORM
@pytest.mark.parametrize("shape", SHAPES)
def test_stored_weights_are_exact(
    name: str, shape: tuple[int, int], library: NativeLibrary
) -> None:
    matrix = random_matrix(FORMS[name], shape)
    found = native_matrix(library, matrix).dequantize()
    expected = matrix.dequantize()
    np.testing.assert_allclose(found[: len(expected)], expected, rtol=1e-6, atol=1e-5)
    assert not found[len(expected) :].any()


@EVERY_FORM
@pytest.mark.parametrize("shape", SHAPES)
def test_products(
    name: str, shape: tuple[int, int], library: NativeLibrary, engine: Engine
) -> None:
    matrix = random_matrix(FORMS[name], shape)
    native, weight = native_matrix(library, matrix), matrix.dequantize().astype(np.float64)
    for num_rows in ROWS:
        rows = torch.randn(num_rows, shape[1], generator=torch.Generator().manual_seed(num_rows))
        rows = rows.bfloat16()
        found = multiply(engine, native, rows)
        norms = np.outer(rows.double().norm(dim=1).numpy(), np.linalg.norm(weight, axis=1))
        error = np.abs(found[:, : shape[0]] - rows.double().numpy() @ weight.T) / norms
        assert error.max() < tolerance(FORMS[name], num_rows), num_rows
        assert not found[:, shape[0] :].any()


@EVERY_FORM
@pytest.mark.parametrize("num_rows", [2, 8, 11, MAX_EXACT_ROWS])
def test_a_row_does_not_depend_on_the_others(
    name: str, num_rows: int, library: NativeLibrary, engine: Engine
) -> None:
    native = native_matrix(library, random_matrix(FORMS[name], (100, 131)))
    rows = torch.randn(num_rows, 131, generator=torch.Generator().manual_seed(0)).bfloat16()
    together = multiply(engine, native, rows)
    for number in range(num_rows):
        assert np.array_equal(together[number], multiply(engine, native, rows[number:][:1])[0])


@EVERY_FORM
def test_parameters_are_stored_in_pieces_of_rows(name: str, library: NativeLibrary) -> None:
    matrix = random_matrix(FORMS[name], (60, 200))
    weight_format = common_format([matrix.format], 200)
    assert weight_format is not None
    for gated in (False, True):
        plan = MatrixPlan({"gate": 30, "up": 30}, 200, gated=gated)
        target = allocate(plan, library, weight_format)
        for first in (0, 30):
            parameter = "up" if first else "gate"
            target.write_quantized(parameter, 17, matrix.rows(slice(first + 17, first + 30)))
            target.write_quantized(parameter, 0, matrix.rows(slice(first, first + 17)))
        columns = np.concatenate([plan.columns("gate"), plan.columns("up")])
        np.testing.assert_allclose(
            target.dequantize()[columns], matrix.dequantize(), rtol=1e-6, atol=1e-5
        )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Q6_K", "Q5_K"),
        ("Q6_K", "Q4_1"),
        ("symmetric", "Q6_K"),
        ("gptq", "symmetric"),
        ("gptq", "Q4_1"),
        ("gptq, act order", "gptq, 8 bits, act order"),
        ("int8 per output", "gptq, 2 bits"),
        ("symmetric", "symmetric, groups of 48"),
    ],
)
@pytest.mark.parametrize("num_rows", [1, 8, 60])
def test_one_matrix_with_parameters_of_two_formats(
    first: str, second: str, num_rows: int, library: NativeLibrary, engine: Engine
) -> None:
    parts = [random_matrix(FORMS[name], (40, 288), seed=1) for name in (first, second)]
    parts[1] = replace(parts[1], input_order=parts[0].input_order)
    weight_format = common_format([part.format for part in parts], 288)
    assert weight_format is not None
    target = allocate(MatrixPlan({"a": 40, "b": 40}, 288), library, weight_format)
    for parameter, part in zip("ab", parts, strict=True):
        target.write_quantized(parameter, 0, part)
    weight = np.concatenate([part.dequantize() for part in parts]).astype(np.float64)
    np.testing.assert_allclose(target.dequantize()[:80], weight, rtol=1e-5, atol=2e-5)
    rows = torch.randn(num_rows, 288, generator=torch.Generator().manual_seed(0)).bfloat16()
    norms = np.outer(rows.double().norm(dim=1).numpy(), np.linalg.norm(weight, axis=1))
    found = multiply(engine, target, rows)[:, :80]
    error = np.abs(found - rows.double().numpy() @ weight.T) / norms
    assert error.max() < tolerance(weight_format.form, num_rows)


@pytest.mark.parametrize(
    "names", [("nf4", "symmetric"), ("nf4", "fp4"), ("gptq", "gptq, act order")]
)
def test_formats_without_a_common_format(names: tuple[str, str]) -> None:
    assert common_format([FORMS[name] for name in names], 256) is None


def test_groups_that_the_kernels_do_not_support() -> None:
    assert common_format([replace(FORMS["symmetric"], group_inputs=24)], 240) is None
    assert common_format([replace(FORMS["symmetric"], group_inputs=24)], 24) is not None


@pytest.mark.parametrize(("name", "code"), [("e4m3 per output", 0xFF), ("e5m2", 0x7C)])
@pytest.mark.parametrize("num_rows", [3, 60])
def test_a_code_that_is_not_finite_is_visible(
    name: str, code: int, num_rows: int, library: NativeLibrary, engine: Engine
) -> None:
    matrix = random_matrix(FORMS[name], (32, 96))
    matrix.codes[5, 90] = code
    found = multiply(engine, native_matrix(library, matrix), torch.randn(num_rows, 96).bfloat16())
    assert not np.isfinite(found[:, 5]).any()
    assert np.isfinite(np.delete(found, 5, 1)).all()
