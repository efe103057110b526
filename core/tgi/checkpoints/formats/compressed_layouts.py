"""The layouts of compressed-tensors: packed integers, one code per byte, and packed 4-bit floats.
Source: compressed-tensors, `compressors/pack_quantized`, `naive_quantized`, `nvfp4` and `mxfp4`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from tgi.architectures.checkpoint import StoredTensor
from tgi.checkpoints.formats.packed_integers import PackedIntegers
from tgi.checkpoints.formats.scaled_weight import CODE_KINDS, ScaledWeight
from tgi.checkpoints.formats.stored_parts import (
    FLOATS,
    checked_part,
    nibbles,
    numbers,
    one_expert,
    optional_parts,
    powers_of_two,
)
from tgi.checkpoints.quantized import (
    Activation,
    CodeKind,
    QuantizedFormat,
    QuantizedMatrix,
    ScaleKind,
)
from tgi.checkpoints.quantized_tensor import QuantizedTensor, Read
from tgi.errors import ModelError

__all__ = ["Scheme", "compressed_tensor"]

_OTHERS = ("input_scale", "input_zero_point", "input_global_scale", "output_scale")
_PACKED_BITS = (2, 4, 8)  # a code never begins in one word and ends in the next word
_NVFP4_GROUP, _MXFP4_GROUP, _MXFP8_GROUP = 16, 32, 32


@final
@dataclass(frozen=True)
class Scheme:
    """How the weights of some modules are quantized."""

    layout: str  # the name of the format, for example `pack-quantized`
    type: str  # `int` or `float`
    bits: int
    strategy: str
    group_size: int | None
    block: tuple[int, int] | None
    symmetric: bool
    activation: Activation

    @property
    def name(self) -> str:
        """A short description for tables, for example `int4 in groups of 128`."""
        kind = f"{'int' if self.type == 'int' else 'fp'}{self.bits}"
        if self.block is not None:
            return f"{kind} in blocks of {self.block[0]} x {self.block[1]}"
        if self.group_size is not None:
            return f"{kind} in groups of {self.group_size}"
        return f"{kind} per {'output' if self.strategy == 'channel' else self.strategy}"


def compressed_tensor(
    stored: Mapping[str, StoredTensor], module: str, scheme: Scheme, read: Read
) -> QuantizedTensor:
    """Build the weight of a module from its stored tensors. Raises `ModelError` with the name of
    the tensor if a part is missing, has the wrong shape, or a layout that is not supported.
    """
    match scheme.layout:
        case "pack-quantized":
            return _packed(stored, module, scheme, read)
        case "nvfp4-pack-quantized":
            return _packed_floats(stored, module, scheme, _NVFP4_GROUP)
        case "mxfp4-pack-quantized":
            return _packed_floats(stored, module, scheme, _MXFP4_GROUP)
        case _:
            return _scaled(stored, module, scheme)


def _scaled(stored: Mapping[str, StoredTensor], module: str, scheme: Scheme) -> QuantizedTensor:
    name = f"{module}.weight"
    expected = ("I8",) if scheme.type == "int" else ("F8_E4M3", "F8_E5M2")
    is_mx = scheme.layout == "mxfp8-quantized"
    weight = checked_part(stored, name, tuple(set(expected) & set(CODE_KINDS)))
    scale = checked_part(stored, f"{name}_scale", ("U8",) if is_mx else FLOATS)
    zero_point = None
    if not scheme.symmetric:
        zero_point = checked_part(stored, f"{name}_zero_point", ("I8",))
    group = _MXFP8_GROUP if is_mx else scheme.group_size
    return ScaledWeight(
        name,
        weight,
        scale,
        scheme.block or (None if group is None else (1, group)),
        zero_point,
        scheme.activation,
        exponent_scales=is_mx,
        others=optional_parts(stored, module, _OTHERS),
    ).tensor()


def _packed(
    stored: Mapping[str, StoredTensor], module: str, scheme: Scheme, read: Read
) -> QuantizedTensor:
    """Build a weight of integers that are packed along the inputs into 32-bit words."""
    if scheme.type != "int" or scheme.bits not in _PACKED_BITS:
        raise ModelError(
            f"The module `{module}` has packed weights of type `{scheme.type}` with {scheme.bits}"
            f" bits, but only integers of {', '.join(map(str, _PACKED_BITS))} bits are supported.",
            "Choose a checkpoint with 4 or 8 bits.",
        )
    packed = checked_part(stored, f"{module}.weight_packed", ("I32",))
    shape_part = checked_part(stored, f"{module}.weight_shape", ("I64", "I32"), (2,))
    outputs, inputs = (int(size) for size in read(shape_part.name))
    expected = (outputs, math.ceil(inputs * scheme.bits / 32))
    if min(outputs, inputs) < 1 or packed.shape != expected:
        raise ModelError(
            f"The tensor `{packed.name}` has shape {list(packed.shape)}, but `{shape_part.name}`"
            f" {[outputs, inputs]} with {scheme.bits} bits requires {list(expected)}.",
            "Download the checkpoint again.",
        )
    return PackedIntegers(
        module, packed, (outputs, inputs), scheme.bits, scheme.group_size, scheme.activation
    ).tensor(
        stored,
        read,
        {"shape": shape_part, **optional_parts(stored, module, _OTHERS)},
        is_symmetric=scheme.symmetric,
    )


def _packed_floats(
    stored: Mapping[str, StoredTensor], module: str, scheme: Scheme, group: int
) -> QuantizedTensor:
    """Build a weight of 4-bit floats with two codes per byte, the lower four bits first.

    nvfp4 has one e4m3 scale per 16 inputs, which is divided by a scale of the whole matrix. mxfp4
    has one power of two per 32 inputs.
    """
    packed = checked_part(stored, f"{module}.weight_packed", ("U8",))
    if len(packed.shape) not in (2, 3):
        raise ModelError(
            f"The tensor `{packed.name}` has shape {list(packed.shape)}, but packed 4-bit floats"
            " require [outputs, inputs / 2]."
        )
    shape = (*packed.shape[:-1], packed.shape[-1] * 2)
    is_nvfp4 = group == _NVFP4_GROUP
    scale = checked_part(
        stored,
        f"{module}.weight_scale",
        ("F8_E4M3",) if is_nvfp4 else ("U8", "F8_E8M0"),
        (*shape[:-1], -(-shape[-1] // group)),
    )
    parts = {"packed": packed, "scale": scale, **optional_parts(stored, module, _OTHERS)}
    if is_nvfp4:
        single = ((), (1,)) if len(shape) == 2 else ((shape[0],), (shape[0], 1))
        parts["global_scale"] = checked_part(
            stored, f"{module}.weight_global_scale", ("F32",), *single
        )
    form = QuantizedFormat(
        CodeKind.E2M1,
        4,
        group,
        scale_kind=ScaleKind.F32 if is_nvfp4 else ScaleKind.E8M0,
        activation=scheme.activation,
    )

    def decode(read: Read, expert: int | None, rows: slice) -> QuantizedMatrix:
        codes = nibbles(np.ascontiguousarray(one_expert(read("packed"), expert)[rows]))
        scales = one_expert(read("scale"), expert)[rows]
        if not is_nvfp4:
            return QuantizedMatrix(form, codes, powers_of_two(scales))
        divisors = np.asarray(read("global_scale")).reshape(-1)
        divisor = np.float32(divisors[expert or 0])
        return QuantizedMatrix(form, codes, numbers(scales, "F8_E4M3") / divisor)

    return QuantizedTensor(f"{module}.weight", shape, form, parts, decode)
