"""Every layout of quantized weights is decoded to the numbers of its definition, bit by bit."""

import numpy as np
import pytest

from tests.core.checkpoints.formats import layouts
from tests.core.checkpoints.formats.all_layouts import LAYOUTS
from tgi.checkpoints.quantized import Activation


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
def layout(request):
    return request.param()


def test_a_weight_has_the_shape_and_the_numbers_of_its_definition(layout):
    tensor = layout.tensor
    assert tensor.shape == layout.weights.shape
    assert {part.name for part in tensor.parts.values()} == set(layout.checkpoint.arrays)
    for expert in range(len(layout.weights)) if layout.is_stacked else (None,):
        matrix = layout.checkpoint.decode(tensor, expert)
        expected = layout.weights if expert is None else layout.weights[expert]
        np.testing.assert_array_equal(matrix.dequantize(), expected)
        assert matrix.codes.dtype == np.uint8
        assert matrix.codes.max() < 1 << tensor.format.bits
        groups = tensor.format.num_groups(tensor.shape[-1])
        assert matrix.scales.shape == (tensor.shape[-2], groups)
        assert matrix.scales.dtype == np.float32
        assert (matrix.zeros is not None) == tensor.format.has_zeros
        assert (matrix.offsets is not None) == tensor.format.has_offsets
        assert (matrix.input_order is not None) == tensor.format.has_input_order


def test_rows_are_decoded_alone(layout):
    tensor = layout.tensor
    step = tensor.row_multiple
    last = tensor.shape[-2] // step * step
    expert = 1 if layout.is_stacked else None
    whole = layout.checkpoint.decode(tensor, expert).dequantize()
    for rows in (slice(0, step), slice(last - step, last)):
        piece = layout.checkpoint.decode(tensor, expert, rows)
        np.testing.assert_array_equal(piece.dequantize(), whole[rows])
    assert layout.checkpoint.decode(tensor, expert, slice(0, 0)).shape == (0, tensor.shape[-1])


def test_the_activation_rule_is_read():
    assert layouts.int8_per_output().tensor.format.activation is Activation.INT8_DYNAMIC
    assert layouts.fp8_static().tensor.format.activation is Activation.FP8_STATIC
    assert layouts.fp8_blocks().tensor.format.activation is Activation.FP8_DYNAMIC
    assert layouts.nvfp4().tensor.format.activation is Activation.NONE
