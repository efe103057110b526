"""Every layout of quantized weights is decoded to the numbers of its definition, bit by bit."""

import numpy as np
import pytest

from tests.core.checkpoints.formats import layouts
from tgi.checkpoints.quantized import Activation

LAYOUTS = {
    "packed int4": layouts.packed_integers,
    "packed int8": lambda: layouts.packed_integers(8),
    "packed int2": lambda: layouts.packed_integers(2),
    "packed int4 with zeros": lambda: layouts.packed_integers(symmetric=False),
    "packed int8 with zeros": lambda: layouts.packed_integers(8, symmetric=False),
    "packed int4 with order": lambda: layouts.packed_integers(order=True),
    "packed int4 with zeros and order": lambda: layouts.packed_integers(
        symmetric=False, order=True
    ),
    "packed int4 per output": lambda: layouts.packed_integers(group=32),
    "int8 per output": layouts.int8_per_output,
    "int8 per output with zeros": lambda: layouts.int8_per_output(symmetric=False),
    "compressed fp8 per tensor": lambda: layouts.compressed_fp8("tensor"),
    "compressed fp8 per output": lambda: layouts.compressed_fp8("channel"),
    "compressed fp8 blocks": lambda: layouts.compressed_fp8("block", (4, 3)),
    "nvfp4": layouts.nvfp4,
    "fp8 blocks": layouts.fp8_blocks,
    "fp8 static": layouts.fp8_static,
    "fbgemm experts": layouts.fbgemm_experts,
    "mxfp4 experts": layouts.mxfp4_experts,
    "eetq": layouts.eetq_int8,
    "exl2": layouts.exl2_mixed,
    "exl2 with a long last group": lambda: layouts.exl2_mixed((32, 32, 96), (4, 4, 8)),
    "exl2 with one group": lambda: layouts.exl2_mixed((40,), (4,)),
    "torchao int4": layouts.torchao_int4,
    "bitsandbytes int8": layouts.bitsandbytes_int8,
}


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
def layout(request):
    return request.param()


def test_a_weight_has_the_shape_and_the_numbers_of_its_definition(layout):
    tensor = layout.tensor
    assert tensor.shape == layout.weights.shape
    assert {part.name for part in tensor.parts.values()} == set(layout.checkpoint.arrays)
    for expert in range(len(layout.weights)) if layout.weights.ndim == 3 else (None,):
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
    expert = 1 if layout.weights.ndim == 3 else None
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
