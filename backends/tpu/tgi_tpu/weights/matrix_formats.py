"""The formats in which quantized matrices are stored on the devices. This module imports no
framework.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import final

from tgi.architectures import ModelSpec
from tgi.architectures.weight_map import Placement
from tgi.backend.errors import ModelError
from tgi.checkpoints.checkpoint import Checkpoint, open_checkpoint
from tgi.checkpoints.detection import find_format
from tgi.checkpoints.gguf.container import is_gguf_path
from tgi.checkpoints.pieces import formats_of
from tgi.checkpoints.quantized import CodeKind, QuantizedFormat, ScaleKind
from tgi.worker.checkpoint import file_order
from tgi.worker.dequantization import Dequantization
from tgi_tpu.model.layer_groups import array_of

__all__ = [
    "INT8",
    "NOT_COMPUTED",
    "CheckpointFormats",
    "MatrixFormat",
    "center_of",
    "checkpoint_formats",
    "formats_in",
    "is_quantizable",
    "matrix_format",
]

NOT_COMPUTED = (
    "this backend stores the codes of a matrix only if they are integers, e4m3 or e5m2, the inputs"
    " are not reordered, all repeats of the layer have the same format, and the matrix belongs to a"
    " layer or is an untied head"
)
"""The reason why a weight is dequantized, as a clause."""

_SHOWN = 3  # parameters in a log line
_QUANTIZED_PARTS = frozenset({"q", "k", "v", "o", "gate", "up", "down"})
_BITS: Mapping[str, int] = MappingProxyType(
    {"int8": 8, "float8_e4m3fn": 8, "float8_e5m2": 8}
    | {"float16": 16, "bfloat16": 16, "float32": 32}
)
_FLOATS: Mapping[CodeKind, str] = MappingProxyType(
    {CodeKind.E4M3: "float8_e4m3fn", CodeKind.E5M2: "float8_e5m2"}
)
_SCALES: Mapping[ScaleKind, str] = MappingProxyType(
    {
        ScaleKind.F32: "float32",
        ScaleKind.F16: "float16",
        ScaleKind.BF16: "bfloat16",
        ScaleKind.E8M0: "bfloat16",
    }
)


@final
@dataclass(frozen=True)
class MatrixFormat:
    """The format of a quantized matrix on the devices.

    A weight is `scale * (value - zero) + offset`. The values of integers are the codes of the
    canonical form minus `center_of` these codes, so that they fit into a signed dtype.
    """

    dtype: str  # of the values
    group: int | None = None  # inputs that share a scale; None = all inputs
    scale_dtype: str = "float32"
    zero: int = 0  # the value of the number 0, if each group has the same zero
    has_zeros: bool = False
    has_offsets: bool = False

    @property
    def is_grouped(self) -> bool:
        """Whether a scale is applied to the weights. Otherwise each output has only a scale, which
        is applied to the product.
        """
        return self.group is not None or self.has_zeros or self.has_offsets or self.zero != 0

    def num_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a matrix [..., outputs, inputs] that is not divided among devices."""
        *others, num_inputs = shape
        num_outputs = math.prod(others)
        each = _BITS[self.scale_dtype] + 8 * self.has_zeros + 32 * self.has_offsets
        num_groups = 1 if self.group is None else -(-num_inputs // self.group)
        bits = num_outputs * (num_inputs * _BITS[self.dtype] + num_groups * each)
        return -(-bits // 8)


INT8 = MatrixFormat("int8")
"""The format of `--quantize int8`."""


@final
@dataclass(frozen=True)
class CheckpointFormats:
    """The formats of the quantized weights of a checkpoint on the devices.

    `description` is the format of the checkpoint. `by_parameter` contains the parameters that are
    stored in a quantized format, and `loss` is the cost of all others. `loss` is None if no weight
    is dequantized.
    """

    description: str
    by_parameter: Mapping[str, MatrixFormat]
    dequantized: tuple[str, ...]  # parameters
    loss: Dequantization | None

    @property
    def dtypes(self) -> str:
        """The dtypes of the values on the devices, for example `float8_e4m3fn and
        int8`.
        """
        return " and ".join(sorted({form.dtype for form in self.by_parameter.values()}))

    def detail(self, dtype: str) -> str:
        """The format of the weights in memory, for a table."""
        if not self.by_parameter and self.loss is not None:
            return self.loss.detail(dtype)
        return f"{self.dtypes} and {dtype}, from {self.description}"

    def line(self, dtype: str, value_bytes: int) -> str:
        """One log line about the weights in memory. A dequantized weight has `value_bytes`
        bytes.
        """
        kept = f"the quantized weights keep the codes of the checkpoint ({self.dtypes})"
        if self.loss is None:
            return kept
        if not self.by_parameter:
            return self.loss.line(dtype, value_bytes)
        shown = ", ".join(self.dequantized[:_SHOWN]) + ", …" * (len(self.dequantized) > _SHOWN)
        return (
            f"{kept}, except {len(self.dequantized)} parameters, which are dequantized to {dtype}:"
            f" {shown}; they need {self.loss.cost(value_bytes)}, because {NOT_COMPUTED}"
        )


def center_of(form: QuantizedFormat) -> int:
    """The code that is stored as the value 0. Codes of floating-point numbers are not changed."""
    return 1 << (form.bits - 1) if form.kind is CodeKind.INTEGER else 0


def matrix_format(form: QuantizedFormat) -> MatrixFormat | None:
    """Return the format on the devices of a matrix with the canonical format `form`. The result is
    None if the backend does not compute this format.
    """
    if form.has_input_order:
        return None
    if form.kind is CodeKind.INTEGER:
        # JAX 0.10 rejects int4 arrays as arguments of a program that was compiled in advance,
        # because it reports their layout without the size of a packed value.
        dtype = "int8"
    elif form.kind in _FLOATS:
        dtype = _FLOATS[form.kind]
    else:
        return None
    is_constant = form.kind is CodeKind.INTEGER and not form.has_zeros
    found = MatrixFormat(
        dtype,
        form.group_inputs,
        _SCALES[form.scale_kind],
        zero=form.zero - center_of(form) if is_constant else 0,
        has_zeros=form.has_zeros,
        has_offsets=form.has_offsets,
    )
    return found if found.is_grouped else MatrixFormat(dtype)


def is_quantizable(parameter: str) -> bool:
    """Whether a parameter can be quantized: the matrices of the layers' mixers and of an untied
    head.
    """
    parts = parameter.split(".")
    return parameter == "head.weight" or (
        len(parts) > 3 and parts[-1] == "weight" and parts[-2] in _QUANTIZED_PARTS
    )


def formats_in(
    spec: ModelSpec, checkpoint: Checkpoint, todo: list[Placement]
) -> CheckpointFormats | None:
    """Return the formats of an open checkpoint, or None if no weight is quantized.

    The layers of a repeated pattern share one array. If their formats differ, their weights are
    dequantized.
    """
    tensors = checkpoint.tensors
    if tensors.format is None or not tensors.quantized:
        return None
    stored = {
        parameter: matrix_format(item.format)
        for parameter, item in formats_of(checkpoint, todo).items()
        if is_quantizable(parameter)
    }
    by_array: dict[str, set[MatrixFormat | None]] = defaultdict(set)
    for placement in todo:
        for parameter in placement.parameters:
            by_array[array_of(parameter, spec)[0]].add(stored.get(parameter))
    kept = {
        parameter: form
        for parameter, form in stored.items()
        if form is not None and len(by_array[array_of(parameter, spec)[0]]) == 1
    }
    others = [item for item in todo if item.name in tensors.quantized]
    others = [item for item in others if not kept.keys() >= set(item.parameters)]
    lost = [tensors.quantized[item.name] for item in others]
    loss = Dequantization(
        tensors.format.description,
        tuple(sorted({tensor.format.name for tensor in lost})),
        sum(tensor.num_bytes for tensor in lost),
        sum(math.prod(tensor.shape) for tensor in lost),
    )
    names = (parameter for item in others for parameter in item.parameters)
    dequantized = tuple(dict.fromkeys(name for name in names if name not in kept))
    return CheckpointFormats(
        tensors.format.description, kept, dequantized, loss if dequantized else None
    )


def checkpoint_formats(spec: ModelSpec, model_path: Path) -> CheckpointFormats | None:
    """Return the formats of a checkpoint, or None if no weight is quantized. The result is also
    None if a file is damaged, because the loader reports this error.
    """
    try:
        if not is_gguf_path(model_path) and find_format(model_path) is None:
            return None
        with open_checkpoint(model_path) as checkpoint:
            return formats_in(spec, checkpoint, file_order(spec, checkpoint))
    except ModelError:
        return None
