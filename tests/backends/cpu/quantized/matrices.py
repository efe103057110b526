"""Random quantized matrices in every canonical form, for the tests of the kernels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tgi.checkpoints.quantized import CodeKind, QuantizedFormat, ScaleKind
from tgi.checkpoints.quantized import QuantizedMatrix as CanonicalMatrix
from tgi_cpu.native import NativeLibrary
from tgi_cpu.native_matrices import MatrixPlan
from tgi_cpu.native_quantized import QuantizedMatrix, quantized_bytes
from tgi_torch.weights.weight_formats import WeightFormat, common_format

__all__ = ["FORMS", "allocate", "native_matrix", "quantized_natively", "random_matrix"]

_INT4 = QuantizedFormat(CodeKind.INTEGER, 4, 32, scale_kind=ScaleKind.F16, zero=8)
_INT8 = QuantizedFormat(CodeKind.INTEGER, 8, None, zero=128)
_FLOAT = QuantizedFormat(CodeKind.E4M3, 8, None)

FORMS = {
    "gptq": replace(_INT4, group_inputs=128, has_zeros=True),
    "gptq, act order": replace(_INT4, group_inputs=128, has_zeros=True, has_input_order=True),
    "gptq, 2 bits": replace(_INT4, bits=2, zero=2, group_inputs=64),
    "gptq, 3 bits, per output": replace(_INT4, bits=3, group_inputs=None, has_zeros=True),
    "gptq, 8 bits, act order": replace(
        _INT8, group_inputs=32, has_zeros=True, has_input_order=True, scale_kind=ScaleKind.F16
    ),
    "symmetric": _INT4,
    "symmetric, groups of 48": replace(_INT4, group_inputs=48, scale_kind=ScaleKind.BF16),
    "groups of 256": replace(_INT4, group_inputs=256, has_zeros=True),
    "Q4_1": replace(_INT4, zero=0, has_offsets=True),
    "Q6_K": replace(_INT4, bits=6, zero=32, group_inputs=16),
    "Q5_K": replace(_INT4, bits=5, zero=0, has_offsets=True),
    "offsets in float32": replace(_INT8, zero=0, has_offsets=True, group_inputs=64),
    "int8 per output": _INT8,
    "nf4": QuantizedFormat(CodeKind.NF4, 4, 64),
    "nf4, input order": QuantizedFormat(CodeKind.NF4, 4, 64, has_input_order=True),
    "fp4": QuantizedFormat(CodeKind.FP4, 4, 64, scale_kind=ScaleKind.BF16),
    "mxfp4": QuantizedFormat(CodeKind.E2M1, 4, 32, scale_kind=ScaleKind.E8M0),
    "nvfp4": QuantizedFormat(CodeKind.E2M1, 4, 16),
    "e4m3 per output": _FLOAT,
    "e4m3 per tensor": replace(_FLOAT, group_outputs=0),
    "e4m3 in blocks": replace(_FLOAT, group_inputs=128, group_outputs=128),
    "e5m2": QuantizedFormat(CodeKind.E5M2, 8, None, scale_kind=ScaleKind.F16),
}
"""Forms of published checkpoints."""

_FINITE_CODES = {CodeKind.E4M3: 0x7F, CodeKind.E5M2: 0x7C}


def random_matrix(form: QuantizedFormat, shape: tuple[int, int], seed: int = 0) -> CanonicalMatrix:
    """Return a matrix [outputs, inputs] whose scales are exact in the dtype of the form."""
    random = np.random.default_rng(seed)
    outputs, inputs = shape
    groups = form.num_groups(inputs)
    codes = random.integers(0, _FINITE_CODES.get(form.kind, 1 << form.bits), shape, np.uint8)
    if form.kind in _FINITE_CODES:
        codes |= random.integers(0, 2, shape, np.uint8) << np.uint8(7)

    def numbers(low: float, high: float) -> npt.NDArray[np.float32]:
        values = random.uniform(low, high, (outputs, groups)).astype(np.float32)
        if form.scale_kind is ScaleKind.F32:
            return values
        if form.scale_kind is ScaleKind.F16:
            return values.astype(np.float16).astype(np.float32)
        mask = 0xFF800000 if form.scale_kind is ScaleKind.E8M0 else 0xFFFF0000
        return (values.view(np.uint32) & np.uint32(mask)).view(np.float32)

    return CanonicalMatrix(
        form,
        codes,
        numbers(0.5, 1.5),
        random.integers(0, 1 << form.bits, (outputs, groups), np.uint8) if form.has_zeros else None,
        numbers(-8, 8) if form.has_offsets else None,
        random.permutation(inputs).astype(np.int32) if form.has_input_order else None,
    )


def allocate(
    plan: MatrixPlan, library: NativeLibrary, weight_format: WeightFormat
) -> QuantizedMatrix:
    """Allocate a matrix whose weights are zero."""
    memory = library.allocate(quantized_bytes(plan, weight_format))
    return QuantizedMatrix(plan, library, weight_format, memory)


def native_matrix(library: NativeLibrary, matrix: CanonicalMatrix) -> QuantizedMatrix:
    """Store a matrix of the canonical form in the layout of the kernels."""
    outputs, inputs = matrix.shape
    weight_format = common_format([matrix.format], inputs)
    assert weight_format is not None
    target = allocate(MatrixPlan({"weight": outputs}, inputs), library, weight_format)
    target.write_quantized("weight", 0, matrix)
    return target


def quantized_natively(
    library: NativeLibrary, weight: Tensor, weight_format: WeightFormat
) -> QuantizedMatrix:
    """Quantize `weight` [outputs, inputs] in one piece."""
    target = allocate(
        MatrixPlan({"weight": weight.shape[0]}, weight.shape[1]), library, weight_format
    )
    target.write("weight", 0, 0, weight)
    return target
