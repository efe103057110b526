"""12-bit weights: compression is lossless, and products equal those of uncompressed weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.backends.cpu.native_kernels import multiply
from tgi_cpu.native import NativeLibrary
from tgi_cpu.native_builder import Kind
from tgi_cpu.native_engine import Engine
from tgi_cpu.native_matrices import CompressedMatrix, Matrix, MatrixPlan, PackedMatrix
from tgi_cpu.native_records import BatchRecord, OpRecord, round_up

SHAPES = [(1, 40), (33, 7), (64, 64), (100, 131), (48, 258), (544, 192)]  # outputs, inputs
ROWS = [1, 2, 5, 12, 13, 31, 48, 49, 241]  # on both sides of every change of algorithm

Bits = npt.NDArray[np.uint16]


def packed(library: NativeLibrary, weight: Bits) -> PackedMatrix:
    """Pack bf16 bits [outputs, inputs] in panels."""
    plan = MatrixPlan({"weight": weight.shape[0]}, weight.shape[1])
    matrix = PackedMatrix(plan, library, library.allocate(plan.num_bytes).view(np.uint16))
    matrix.write("weight", 0, 0, torch.from_numpy(weight.view(np.int16)).view(torch.bfloat16))
    return matrix


def compressed(library: NativeLibrary, weight: Bits) -> CompressedMatrix:
    matrix = packed(library, weight).compressed()
    assert isinstance(matrix, CompressedMatrix)
    return matrix


def normal(shape: tuple[int, int], seed: int = 0) -> Bits:
    """bf16 bits of normally distributed weights."""
    weight = 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return weight.bfloat16().view(torch.int16).numpy().view(np.uint16)


def columns(
    engine: Engine, matrix: Matrix, token_ids: list[int] | None = None
) -> npt.NDArray[np.uint32]:
    """The bits of the matrix in float32 [ids, inputs], read by the embedding operation. By default,
    the ids are those of all outputs.
    """
    plan = matrix.plan
    ids = np.array(range(plan.num_columns) if token_ids is None else token_ids, np.int64)
    target = np.ones((len(ids), round_up(plan.num_inputs, 32)), np.float32)
    op = OpRecord(
        kind=Kind.EMBED,
        num_columns=plan.num_inputs,
        num_ids=plan.num_columns,
        target=target.ctypes.data,
        scale=1.0,
        **matrix.operand,
    )
    engine.run((OpRecord * 1)(op), BatchRecord(num_tokens=len(ids), token_ids=ids.ctypes.data))
    return target[:, : plan.num_inputs].view(np.uint32)


def multiply_rows(engine: Engine, matrix: Matrix, num_rows: int) -> npt.NDArray[np.float32]:
    """Multiply rows with a fixed seed by the weights. Columns beyond the outputs must be zero."""
    rows = 0.02 * torch.randn(
        (num_rows, matrix.plan.num_inputs), generator=torch.Generator().manual_seed(1)
    )
    target = multiply(engine, matrix, rows)
    assert not target[:, matrix.plan.num_columns :].any()
    return target


@pytest.mark.parametrize("shape", SHAPES)
def test_compression_is_lossless(
    shape: tuple[int, int], library: NativeLibrary, engine: Engine
) -> None:
    weight = normal(shape)
    np.testing.assert_array_equal(
        columns(engine, compressed(library, weight)), weight.astype(np.uint32) << 16
    )


@pytest.mark.parametrize("is_compressed", [True, False])
def test_a_token_id_outside_of_the_table_reads_no_memory(
    is_compressed: bool, library: NativeLibrary, engine: Engine
) -> None:
    weight = normal((96, 320))
    matrix = compressed(library, weight) if is_compressed else packed(library, weight)
    found = columns(engine, matrix, [-1, 0, 96, 95, 5_000_000, 2**62, -(2**63)])
    np.testing.assert_array_equal(found[[0, 2, 4, 5, 6]], 0)
    np.testing.assert_array_equal(found[[1, 3]], weight[[0, 95]].astype(np.uint32) << 16)


def test_compression_of_rare_values_is_lossless(library: NativeLibrary, engine: Engine) -> None:
    weight = normal((96, 320))
    rare = np.array(
        [0, 0x8000, 1, 0x807F, 0x7F80, 0xFF80, 0x7FC1, 0x7F7F, 0x0080, 0x3F80, 0xC2F7], np.uint16
    )
    weight[np.arange(11) * 7, np.arange(11) * 29] = rare
    weight[:, 5] = 0
    matrix = compressed(library, weight)
    assert len(matrix.outliers) >= 6
    np.testing.assert_array_equal(columns(engine, matrix), weight.astype(np.uint32) << 16)


@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_products_equal_those_of_uncompressed_weights(
    shape: tuple[int, int], num_rows: int, library: NativeLibrary, engine: Engine
) -> None:
    weight = normal(shape)
    weight[(weight & 0x7FFF) < 0x3880] = 0x3C00  # no value is so small that it is an outlier
    matrix = compressed(library, weight)
    assert len(matrix.outliers) == 0
    np.testing.assert_array_equal(
        multiply_rows(engine, matrix, num_rows),
        multiply_rows(engine, packed(library, weight), num_rows),
    )


@pytest.mark.parametrize("num_rows", ROWS)
def test_outliers_count(num_rows: int, library: NativeLibrary, engine: Engine) -> None:
    weight = normal((96, 320))
    weight[np.arange(90), np.arange(90) * 3] = 0x4380  # 256: a missing outlier is a large error
    matrix = compressed(library, weight)
    assert len(matrix.outliers) >= 90
    expected = multiply_rows(engine, packed(library, weight), num_rows)
    found = multiply_rows(engine, matrix, num_rows)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    # Rows are drawn one after the other, so the first rows and their results must be equal.
    np.testing.assert_array_equal(found[:5], multiply_rows(engine, matrix, 5)[:num_rows])


def test_weights_of_any_exponent_stay_as_they_are(library: NativeLibrary) -> None:
    matrix = packed(
        library, np.random.default_rng(0).integers(0, 2**16, (64, 64)).astype(np.uint16)
    )
    before = matrix.panels.copy()
    assert matrix.compressed() is matrix
    np.testing.assert_array_equal(matrix.panels, before)


def test_size_of_compressed_matrices(library: NativeLibrary) -> None:
    plain, matrix = packed(library, normal((544, 576))), compressed(library, normal((544, 576)))
    assert matrix.num_bytes / plain.num_bytes == pytest.approx(0.75, abs=0.002)
    assert len(matrix.outliers) < 544 * 576 / 2000


def test_a_matrix_moves_over_itself(library: NativeLibrary, engine: Engine) -> None:
    weight = normal((256, 128))
    plan = MatrixPlan({"weight": 256}, 128)
    memory = library.allocate(plan.num_bytes + 4096)
    matrix = PackedMatrix(plan, library, memory[4096:].view(np.uint16))
    matrix.write("weight", 0, 0, torch.from_numpy(weight.view(np.int16)).view(torch.bfloat16))
    moved = matrix.compressed().moved(memory)
    memory[moved.num_bytes :] = 0xA5
    np.testing.assert_array_equal(columns(engine, moved), weight.astype(np.uint32) << 16)
