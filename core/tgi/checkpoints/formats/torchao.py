"""The format `torchao`: int4, int8 and fp8 weights in safetensors files. Source: torchao,
`prototype/safetensors/safetensors_support.py` and the tensor classes in
`quantization/quantize_/workflows`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from tgi.architectures.checkpoint import StoredTensor
from tgi.checkpoints.formats.scaled_weight import CODE_KINDS, ScaledWeight
from tgi.checkpoints.formats.stored_parts import (
    FLOATS,
    checked_part,
    nibbles,
    numbers,
    optional_parts,
)
from tgi.checkpoints.parts import SCALE_KINDS, modules_with
from tgi.checkpoints.quantized import CodeKind, QuantizedFormat, QuantizedMatrix
from tgi.checkpoints.quantized_tensor import CheckpointFormat, QuantizedTensor, Read
from tgi.checkpoints.settings import Settings
from tgi.errors import ModelError

__all__ = ["read"]

_CODES = "_weight_qdata"
_ZERO = 8  # the code of the number 0 after the sign bit of four bits is inverted
_SUPPORTED = "torchao's Int4Tensor, Int8Tensor, IntxUnpackedToInt8Tensor and Float8Tensor"


def read(settings: Settings) -> CheckpointFormat:
    """Read the settings of `quant_method` `torchao`. The dtypes and shapes of the tensors decide
    how they are read.
    """
    return _TorchAo(_config_name(settings.values.get("quant_type")))


def _config_name(value: object) -> str:
    """Return the name of torchao's config, such as Int8WeightOnlyConfig."""
    match value:
        case str(name):
            return name
        case {"default": {"_type": str(name)}} | {"_type": str(name)}:
            return name
        case _:
            return "unnamed config"


@final
@dataclass(frozen=True)
class _TorchAo:
    config: str

    @property
    def name(self) -> str:
        return "torchao"

    @property
    def description(self) -> str:
        return f"torchao, {self.config}"

    def tensors(
        self,
        stored: Mapping[str, StoredTensor],
        read: Read,
    ) -> Mapping[str, QuantizedTensor]:
        tensors = [_tensor(stored, module) for module in modules_with(stored, _CODES)]
        return {tensor.name: tensor for tensor in tensors}


def _tensor(stored: Mapping[str, StoredTensor], module: str) -> QuantizedTensor:
    codes = checked_part(stored, f"{module}.{_CODES}", (*CODE_KINDS, "U8", "I32"))
    scale = checked_part(stored, f"{module}._weight_scale", FLOATS)
    zero = stored.get(f"{module}._weight_zero_point")
    if f"{module}._weight_act_pre_scale" in stored:
        raise ModelError(
            f"The tensor `{module}._weight_act_pre_scale` multiplies the inputs of a quantized"
            " weight, which is not supported.",
            "Quantize the model without a scale of the inputs (SmoothQuant, AWQ).",
        )
    has_two_dimensions = len(codes.shape) == 2
    if has_two_dimensions and _is_packed(codes, scale, zero) and zero is not None:
        return _packed_int4(module, codes, scale, zero)
    if (
        not has_two_dimensions
        or codes.dtype not in CODE_KINDS
        or not (zero is None or zero.dtype == "I8")
    ):
        with_zeros = "" if zero is None else f" and zeros of dtype {zero.dtype}"
        raise ModelError(
            f"The tensor `{codes.name}` has dtype {codes.dtype} and shape {list(codes.shape)},"
            f" with scales {list(scale.shape)}{with_zeros}. This layout of torchao is not"
            " supported.",
            f"Supported layouts: {_SUPPORTED}.",
        )
    others = optional_parts(
        stored, module, ("_weight_act_quant_scale", "_weight_act_quant_zero_point")
    )
    return ScaledWeight(
        f"{module}.weight", codes, scale, _groups(codes, scale), zero, others=others
    ).tensor()


def _is_packed(codes: StoredTensor, scale: StoredTensor, zero: StoredTensor | None) -> bool:
    """Whether a tensor contains two codes per byte: its scales are [groups, outputs], and its zeros
    are real numbers.
    """
    return (
        codes.dtype in ("I8", "U8")
        and zero is not None
        and zero.dtype in FLOATS
        and zero.shape == scale.shape
        and scale.shape[1:] == codes.shape[:1]
        and codes.shape[1] * 2 % scale.shape[0] == 0
    )


def _groups(codes: StoredTensor, scale: StoredTensor) -> tuple[int, int] | None:
    """Return the block of weights with the same scale, if the scales have more than one column."""
    outputs, inputs = codes.shape
    columns = scale.shape[1] if scale.shape[:1] == (outputs,) and len(scale.shape) > 1 else 1
    return (1, inputs // columns) if columns > 1 and inputs % columns == 0 else None


def _packed_int4(
    module: str, codes: StoredTensor, scale: StoredTensor, zero: StoredTensor
) -> QuantizedTensor:
    """Build a weight of torchao's Int4Tensor: signed codes, the lower four bits first. A weight is
    `code * scale + zero`.
    """
    outputs, inputs = codes.shape[0], codes.shape[1] * 2
    form = QuantizedFormat(
        CodeKind.INTEGER,
        4,
        inputs // scale.shape[0],
        scale_kind=SCALE_KINDS[scale.dtype],
        zero=_ZERO,
        has_offsets=True,
    )

    def decode(read: Read, expert: int | None, rows: slice) -> QuantizedMatrix:
        packed = np.ascontiguousarray(read("qdata")[rows]).view(np.uint8)
        return QuantizedMatrix(
            form,
            nibbles(packed) ^ np.uint8(_ZERO),
            np.ascontiguousarray(numbers(read("scale")[:, rows], scale.dtype).T),
            offsets=np.ascontiguousarray(numbers(read("zero_point")[:, rows], zero.dtype).T),
        )

    parts = {"qdata": codes, "scale": scale, "zero_point": zero}
    return QuantizedTensor(f"{module}.weight", (outputs, inputs), form, parts, decode)
