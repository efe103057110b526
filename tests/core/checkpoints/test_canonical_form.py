"""The canonical form of quantized weights, compared with torch's dtypes and with plain loops."""

import numpy as np
import pytest
import torch

from tgi.checkpoints.quantized import CodeKind, QuantizedFormat, QuantizedMatrix, code_values


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(CodeKind.E4M3, torch.float8_e4m3fn), (CodeKind.E5M2, torch.float8_e5m2)],
)
def test_small_floats_are_those_of_torch(kind, dtype):
    expected = torch.arange(256, dtype=torch.uint8).view(dtype).float().numpy()
    np.testing.assert_array_equal(code_values(kind), expected)


def test_tables_of_four_bits_are_symmetric_or_have_a_zero():
    assert list(code_values(CodeKind.E2M1)[:8]) == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert list(code_values(CodeKind.E2M1)[8:]) == [0, -0.5, -1, -1.5, -2, -3, -4, -6]
    assert code_values(CodeKind.NF4)[7] == 0
    assert (np.diff(code_values(CodeKind.NF4)) > 0).all()
    np.testing.assert_array_equal(code_values(CodeKind.FP4)[8:], -code_values(CodeKind.FP4)[:8])


def random_matrix(seed, *, zeros=False, offsets=False, order=False):
    random = np.random.default_rng(seed)
    outputs, inputs, size = 6, 40, 16  # the last group is incomplete
    groups = -(-inputs // size)
    form = QuantizedFormat(
        CodeKind.INTEGER,
        4,
        size,
        zero=8,
        has_zeros=zeros,
        has_offsets=offsets,
        has_input_order=order,
    )
    return QuantizedMatrix(
        form,
        random.integers(0, 16, (outputs, inputs), dtype=np.uint8),
        random.normal(size=(outputs, groups)).astype(np.float32),
        random.integers(0, 16, (outputs, groups), dtype=np.uint8) if zeros else None,
        random.normal(size=(outputs, groups)).astype(np.float32) if offsets else None,
        random.permutation(inputs).astype(np.int32) if order else None,
    )


@pytest.mark.parametrize("options", [{}, {"zeros": True}, {"offsets": True}, {"order": True}])
def test_dequantize_is_a_plain_loop(options):
    matrix = random_matrix(1, **options)
    expected = np.zeros(matrix.shape, np.float32)
    for output, position in np.ndindex(matrix.shape):
        group = position // 16
        zero = 8 if matrix.zeros is None else int(matrix.zeros[output, group])
        weight = matrix.scales[output, group] * np.float32(
            int(matrix.codes[output, position]) - zero
        )
        if matrix.offsets is not None:
            weight += matrix.offsets[output, group]
        place = position if matrix.input_order is None else matrix.input_order[position]
        expected[output, place] = weight
    np.testing.assert_array_equal(matrix.dequantize(), expected)
    np.testing.assert_array_equal(matrix.rows(slice(2, 5)).dequantize(), expected[2:5])
    np.testing.assert_allclose(matrix.scaled(3.0).dequantize(), 3 * expected, rtol=1e-6)
