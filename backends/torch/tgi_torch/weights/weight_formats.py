"""The formats of quantized weights in memory, and the formats that `--quantize` selects.

A weight [outputs, inputs] is stored as codes, and the inputs of an output are divided into groups,
each with a scale. The canonical form of the core (`tgi.checkpoints.quantized`) describes the
numbers. This module describes their storage. It imports no framework.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Protocol, final

from tgi.checkpoints.pieces import ParameterFormat
from tgi.checkpoints.quantized import Activation, CodeKind, QuantizedFormat, ScaleKind

__all__ = [
    "FP4",
    "FP8",
    "INT4",
    "INT8",
    "NF4",
    "QUANTIZATIONS",
    "CheckpointFormats",
    "MatrixFormats",
    "Quantization",
    "WeightFormat",
    "common_format",
    "describe_quantization",
    "describe_scales",
    "is_quantized",
    "stored_group",
]

_GROUP_MULTIPLE = 16  # inputs that a kernel converts at once
_MAX_GROUP = 128  # the sums of a larger group could exceed 32 bits
_SCALE_BYTES: Mapping[ScaleKind, int] = MappingProxyType(
    {ScaleKind.F32: 4, ScaleKind.F16: 2, ScaleKind.BF16: 2, ScaleKind.E8M0: 2}
)


@final
@dataclass(frozen=True)
class WeightFormat:
    """The storage of a quantized weight.

    If `packs_scales`, the scale and the offset of a group are stored in 16 bits, relative to a
    scale of the output.
    """

    name: str
    form: QuantizedFormat
    packs_scales: bool = False

    @property
    def bits(self) -> int:
        """Size of a stored code in bits: 4 or 8."""
        return 4 if self.form.bits <= 4 else 8

    def group_size(self, num_inputs: int) -> int:
        """Number of inputs that share a stored scale. The scale of a larger group is repeated."""
        size = stored_group(self.form.group_inputs, num_inputs)
        assert size is not None, f"{self.form.name} cannot be stored"
        return size

    def num_groups(self, num_inputs: int) -> int:
        """Number of stored groups of one output. The last group may be padded."""
        return -(-num_inputs // self.group_size(num_inputs))

    def part_bytes(self, num_outputs: int, num_inputs: int) -> tuple[int, int, int, int]:
        """Sizes in bytes of the codes, the scales of the groups, the zeros or offsets, and the
        scales of the outputs.
        """
        groups = num_outputs * self.num_groups(num_inputs)
        codes = groups * self.group_size(num_inputs) * self.bits // 8
        if self.packs_scales:
            return codes, 2 * groups, 0, 4 * num_outputs
        scale_bytes = _SCALE_BYTES[self.form.scale_kind]
        zero_bytes = scale_bytes if self.form.has_offsets else int(self.form.has_zeros)
        return codes, scale_bytes * groups, zero_bytes * groups, 0

    def num_bytes(self, num_outputs: int, num_inputs: int) -> int:
        """Size in bytes of all parts."""
        return sum(self.part_bytes(num_outputs, num_inputs))


def stored_group(group_inputs: int | None, num_inputs: int) -> int | None:
    """Number of inputs of a stored group: the largest divisor of the group that the kernels
    support. Returns None if there is no such divisor.
    """
    if group_inputs is None or group_inputs >= num_inputs:
        return min(_MAX_GROUP, -(-num_inputs // _GROUP_MULTIPLE) * _GROUP_MULTIPLE)
    sizes = range(min(_MAX_GROUP, group_inputs), 0, -1)
    return next(
        (size for size in sizes if size % _GROUP_MULTIPLE == 0 and group_inputs % size == 0), None
    )


def common_format(forms: Iterable[QuantizedFormat], num_inputs: int) -> WeightFormat | None:
    """Return the format that represents the weights of all `forms` exactly, for one matrix that
    consists of several parameters. Returns None if there is no such format.

    All forms with an input order must have the same order.
    """
    unique = {replace(form, activation=Activation.NONE, group_outputs=1) for form in forms}
    form = next(iter(unique)) if len(unique) == 1 else _common_form(unique)
    if form is None or stored_group(form.group_inputs, num_inputs) is None:
        return None
    if form.kind is not CodeKind.INTEGER and (form.has_zeros or form.has_offsets):
        return None
    return WeightFormat(form.name, form)


def _common_form(forms: set[QuantizedFormat]) -> QuantizedFormat | None:
    if any(form.kind is not CodeKind.INTEGER for form in forms):
        return None
    if len({form.has_input_order for form in forms}) > 1:
        return None
    has_offsets = any(form.has_offsets for form in forms)
    scale_kinds = {form.scale_kind for form in forms}
    # The offset -zero * scale is exact in the dtype of the scale if the zero is a power of two.
    is_exact = len(scale_kinds) == 1 and not (
        has_offsets and any(form.has_zeros or form.zero & (form.zero - 1) for form in forms)
    )
    return QuantizedFormat(
        CodeKind.INTEGER,
        max(form.bits for form in forms),
        math.gcd(*(form.group_inputs or 0 for form in forms)) or None,
        scale_kind=next(iter(scale_kinds)) if is_exact else ScaleKind.F32,
        has_zeros=not has_offsets,
        has_offsets=has_offsets,
        has_input_order=any(form.has_input_order for form in forms),
    )


class MatrixFormats(Protocol):
    """Chooses the format of each matrix of a model."""

    @property
    def name(self) -> str:
        """A short name for logs and tables."""

    def matrix_format(self, rows: Mapping[str, int], num_inputs: int) -> WeightFormat | None:
        """Return the format of the matrix that consists of the parameters in `rows`, by parameter
        name. Returns None if the matrix is not quantized.
        """

    def parameter_format(self, parameter: str, shape: tuple[int, ...]) -> WeightFormat | None:
        """Return the format of one parameter, or None if the parameter is not quantized."""


INT8: Final = WeightFormat(
    "int8", QuantizedFormat(CodeKind.INTEGER, 8, 64, scale_kind=ScaleKind.BF16, zero=128)
)
INT4: Final = WeightFormat(
    "int4", QuantizedFormat(CodeKind.INTEGER, 4, 32, has_offsets=True), packs_scales=True
)
NF4: Final = WeightFormat("nf4", QuantizedFormat(CodeKind.NF4, 4, 64, scale_kind=ScaleKind.BF16))
FP4: Final = WeightFormat("fp4", QuantizedFormat(CodeKind.FP4, 4, 64, scale_kind=ScaleKind.BF16))
FP8: Final = WeightFormat("fp8", QuantizedFormat(CodeKind.E4M3, 8, None))

_PARTS = frozenset({"q", "k", "v", "o", "gate", "up", "down", "embedding", "head", "layer_inputs"})


def is_quantized(parameter: str, shape: tuple[int, ...]) -> bool:
    """Whether `--quantize` quantizes the matrix. The result depends on its parameter name and
    shape.

    Matrices of attention and MLP, embedding and head are quantized. Experts, norms and positions
    are not.
    """
    *_, part, kind = parameter.split(".")
    return kind == "weight" and part in _PARTS and len(shape) == 2


@final
@dataclass(frozen=True)
class Quantization:
    """The formats of `--quantize`, which quantizes the matrices while they are loaded.

    Embedding and head use 8-bit integers in every format. They are a large part of a small model,
    and errors in the head are errors in the logits.
    """

    layers: WeightFormat
    embedding_and_head: WeightFormat

    @property
    def name(self) -> str:
        """The name of the layers' format."""
        return self.layers.name

    def format_of(self, parameter: str) -> WeightFormat:
        """The format of the matrix with this parameter name."""
        is_table = parameter.partition(".")[0] in ("embedding", "head")
        return self.embedding_and_head if is_table else self.layers

    def matrix_format(self, rows: Mapping[str, int], num_inputs: int) -> WeightFormat | None:
        """Return the format of a matrix, or None if it is not quantized."""
        formats = [self.parameter_format(name, (n, num_inputs)) for name, n in rows.items()]
        return formats[0] if all(item is not None for item in formats) else None

    def parameter_format(self, parameter: str, shape: tuple[int, ...]) -> WeightFormat | None:
        """Return the format of one parameter, or None if the parameter is not quantized."""
        return self.format_of(parameter) if is_quantized(parameter, shape) else None


@final
@dataclass(frozen=True)
class CheckpointFormats:
    """The formats of a quantized checkpoint, by parameter name."""

    name: str
    parameters: Mapping[str, ParameterFormat]

    def matrix_format(self, rows: Mapping[str, int], num_inputs: int) -> WeightFormat | None:
        """Return the format of a matrix.

        Returns None if the checkpoint does not quantize all parameters of the matrix, or if no
        format represents the weights of all of them. The matrix is then dequantized.
        """
        stored = [self.parameters.get(name) for name in rows]
        forms = [item.format for item in stored if item is not None]
        if len(forms) < len(stored) or len({item and item.order_digest for item in stored}) > 1:
            return None
        return common_format(forms, num_inputs)

    def parameter_format(self, parameter: str, shape: tuple[int, ...]) -> WeightFormat | None:
        """Return the format of one parameter, or None if the parameter is not quantized."""
        if len(shape) != 2:
            return None
        return self.matrix_format({parameter: shape[0]}, shape[1])


_INT8 = Quantization(INT8, INT8)

QUANTIZATIONS: Mapping[str, Quantization] = MappingProxyType(
    {
        "int8": _INT8,
        "eetq": _INT8,
        "bitsandbytes": _INT8,
        "int4": Quantization(INT4, INT8),
        "bitsandbytes-nf4": Quantization(NF4, INT8),
        "bitsandbytes-fp4": Quantization(FP4, INT8),
        "fp8": Quantization(FP8, INT8),
    }
)
"""The values of `--quantize` for an unquantized checkpoint. Some are aliases of the same format."""


def describe_quantization(name: str) -> str:
    """One line for the log that describes a value of `QUANTIZATIONS`."""
    quantization = QUANTIZATIONS[name]
    layers = quantization.layers
    what = f"weights become {_numbers(layers)} with {describe_scales(layers)} ({layers.name})"
    table = quantization.embedding_and_head
    return what if table is layers else f"{what}, embedding and head {_numbers(table)}"


def describe_scales(weight_format: WeightFormat) -> str:
    """Describe the weights that share a scale."""
    scale = "a scale and an offset" if weight_format.form.has_offsets else "a scale"
    size = weight_format.form.group_inputs
    return f"{scale} for every output" if size is None else f"{scale} for every {size} inputs"


def _numbers(weight_format: WeightFormat) -> str:
    is_integer = weight_format.form.kind is CodeKind.INTEGER
    return f"{weight_format.bits}-bit {'integers' if is_integer else 'floating-point numbers'}"
