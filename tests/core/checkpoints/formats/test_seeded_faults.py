"""Typical faults of a decoder change the numbers of the golden layouts, so that their test fails.

Instead of the decoder, the stored tensors are changed. The correct decoder then computes the
numbers that a wrong decoder would compute from the correct tensors.
"""

import numpy as np
import pytest

from tests.core.checkpoints.formats.all_layouts import LAYOUTS


def swapped_nibbles(packed):
    data = np.ascontiguousarray(packed).view(np.uint8)
    return ((data >> 4) | (data << 4)).astype(np.uint8).view(packed.dtype)


def next_zero(packed):
    """Add 1 to each zero of four bits. The zero 15 becomes 0."""
    data = np.ascontiguousarray(packed).view(np.uint8)
    low, high = ((data & 15) + 1) & 15, ((data >> 4) + 1) & 15
    return (low | (high << 4)).astype(np.uint8).view(packed.dtype)


def without_order(groups):
    return np.sort(groups)


def other_group(scales):
    return np.roll(scales, 1, axis=-1)


def other_output(scales):
    return np.roll(scales, 1, axis=0)


def transposed(matrix):
    return np.ascontiguousarray(matrix.T).reshape(matrix.shape)


def forgotten(scale):
    """Return the scale 1, with the same shape and dtype."""
    return np.ones_like(scale)


def without_zero(zeros):
    return np.zeros_like(zeros)


FAULTS = [
    ("packed int4", "weight_packed", swapped_nibbles),
    ("packed int4", "weight_packed", transposed),
    ("packed int4", "weight_scale", other_group),
    ("packed int4 with zeros", "weight_zero_point", next_zero),
    ("packed int4 with zeros", "weight_zero_point", swapped_nibbles),
    ("packed int4 with order", "weight_g_idx", without_order),
    ("int8 per output", "weight", transposed),
    ("int8 per output", "weight_scale", other_output),
    ("int8 per output with zeros", "weight_zero_point", without_zero),
    ("compressed fp8 blocks", "weight_scale", transposed),
    ("compressed fp8 per tensor", "weight_scale", forgotten),
    ("nvfp4", "weight_packed", swapped_nibbles),
    ("nvfp4", "weight_scale", other_group),
    ("nvfp4", "weight_global_scale", forgotten),
    ("fp8 blocks", "weight_scale_inv", other_group),
    ("fp8 static", "weight", transposed),
    ("fbgemm experts", "down_proj_scale", other_group),
    ("mxfp4 experts", "gate_up_proj_blocks", swapped_nibbles),
    ("mxfp4 experts", "gate_up_proj_scales", other_group),
    ("compressed mxfp4", "weight_packed", swapped_nibbles),
    ("eetq", "weight", transposed),
    ("eetq", "weight_scales", other_output),
    ("exl2", "q_invperm", without_order),
    ("exl2", "q_scale", swapped_nibbles),
    ("exl2", "q_scale_max", other_output),
    ("torchao int4", "_weight_qdata", swapped_nibbles),
    ("torchao int4", "_weight_scale", other_output),
    ("torchao int4", "_weight_zero_point", without_zero),
    ("torchao int8 in groups", "_weight_zero_point", without_zero),
    ("bitsandbytes int8", "SCB", other_output),
    ("nf4", "weight", swapped_nibbles),
    ("fp4", "weight", swapped_nibbles),
    ("nf4 whose blocks cross rows", "weight.absmax", other_output),
    ("nf4 with double quantization", "weight.nested_absmax", forgotten),
    ("nf4 with double quantization", "weight.nested_quant_map", other_output),
]


@pytest.mark.parametrize(
    ("kind", "part", "fault"), FAULTS, ids=[f"{k}-{p}-{f.__name__}" for k, p, f in FAULTS]
)
def test_a_fault_changes_the_numbers(kind, part, fault):
    layout = LAYOUTS[kind]()
    (name,) = (name for name in layout.checkpoint.arrays if name.endswith(f"{part}"))
    changed = layout.checkpoint.changed(**{name: fault(layout.checkpoint.arrays[name])})
    expert = 1 if layout.is_stacked else None
    weights = changed.decode(changed.tensors(layout.form)[layout.name], expert).dequantize()
    expected = layout.weights if expert is None else layout.weights[expert]
    assert weights.shape == expected.shape
    assert np.mean(weights != expected) > 0.05


def test_double_quantization_without_its_offset_changes_the_numbers():
    layout = LAYOUTS["nf4 with double quantization"]()
    (name,) = (name for name in layout.checkpoint.arrays if "quant_state" in name)
    text = layout.checkpoint.arrays[name].tobytes().replace(b'"nested_offset": 0.5', b'"x": 0')
    changed = layout.checkpoint.changed(**{name: np.frombuffer(text, np.uint8)})
    weights = changed.decode(changed.tensors(layout.form)[layout.name]).dequantize()
    assert np.mean(weights != layout.weights) > 0.5
