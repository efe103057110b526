"""The formats of `--quantize` for weights that are quantized while they are loaded.

A weight [out, in] becomes integer codes. The inputs of an output are divided into groups, each with
a scale. Embedding and head use 8 bits in every scheme. They are a large part of a small model, and
errors in the head are errors in the logits. This module imports no framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, final

__all__ = [
    "INT4",
    "INT8",
    "QUANTIZATIONS",
    "Quantization",
    "WeightFormat",
    "describe_quantization",
    "is_quantized",
]

_SCALE_BYTES = 2  # bfloat16


@final
@dataclass(frozen=True)
class WeightFormat:
    """Signed integers of `bits` bits with value = scale * integer.

    Every `group_size` inputs of an output share a bfloat16 scale. For each of `scale_candidates`,
    the scale is computed that maps the value with the greatest magnitude in a group to the
    candidate. The scale with the smallest error is used.
    """

    name: str
    bits: int
    group_size: int
    scale_candidates: tuple[float, ...]

    @property
    def zero(self) -> int:
        """The code that represents the value 0. Codes are stored without a sign."""
        return 1 << (self.bits - 1)

    def num_groups(self, num_inputs: int) -> int:
        """Number of groups of one output. The last group may be padded."""
        return -(-num_inputs // self.group_size)

    def code_bytes(self, num_inputs: int) -> int:
        """Size in bytes of the codes of one output."""
        return self.num_groups(num_inputs) * self.group_size * self.bits // 8

    def num_bytes(self, num_outputs: int, num_inputs: int) -> int:
        """Size in bytes of codes and scales."""
        return num_outputs * (
            self.code_bytes(num_inputs) + self.num_groups(num_inputs) * _SCALE_BYTES
        )


INT8: Final = WeightFormat("int8", bits=8, group_size=64, scale_candidates=(127.0,))
INT4: Final = WeightFormat("int4", bits=4, group_size=32, scale_candidates=(-8.0, -8.5, -7.5))


@final
@dataclass(frozen=True)
class Quantization:
    """The formats of all matrices in a model."""

    layers: WeightFormat
    embedding_and_head: WeightFormat

    @property
    def name(self) -> str:
        """The name of the layers' format."""
        return self.layers.name

    def format_of(self, parameter: str) -> WeightFormat:
        """The format of the matrix with this parameter name."""
        return (
            self.embedding_and_head
            if parameter.partition(".")[0] in ("embedding", "head")
            else self.layers
        )


_INT8 = Quantization(INT8, INT8)
_INT4 = Quantization(INT4, INT8)

QUANTIZATIONS: Mapping[str, Quantization] = MappingProxyType(
    {
        "int8": _INT8,
        "eetq": _INT8,
        "bitsandbytes": _INT8,
        "int4": _INT4,
        "bitsandbytes-nf4": _INT4,
        "bitsandbytes-fp4": _INT4,
    }
)
"""The values of `--quantize` for an unquantized checkpoint. Some are aliases of the same format."""

_PARTS = frozenset({"q", "k", "v", "o", "gate", "up", "down", "embedding", "head", "layer_inputs"})


def is_quantized(parameter: str, shape: tuple[int, ...]) -> bool:
    """Whether the matrix is quantized. The result depends on its parameter name and shape.

    Matrices of attention and MLP, embedding and head are quantized. Experts, norms and positions
    are not.
    """
    *_, part, kind = parameter.split(".")
    return kind == "weight" and part in _PARTS and len(shape) == 2


def describe_quantization(name: str) -> str:
    """One line for the log that describes a value of `QUANTIZATIONS`."""
    quantization = QUANTIZATIONS[name]
    layers = quantization.layers
    what = (
        f"weights become {layers.bits}-bit integers with a scale for every {layers.group_size}"
        f" inputs ({layers.name})"
    )
    return (
        what
        if quantization.embedding_and_head is layers
        else f"{what}, embedding and head {quantization.embedding_and_head.bits}-bit integers"
    )
