"""What `--quantize` means where weights are quantized while they are loaded. Numbers only: imports
no framework.

A weight [out, in] becomes integer codes; the inputs of an output share a scale by groups. Embedding
and head keep 8 bits in every scheme: they are a large part of a small model, and errors in the head
are errors in the logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    "refused_quantization",
]

_SCALE_BYTES = 2  # bfloat16


@final
@dataclass(frozen=True)
class WeightFormat:
    """Signed integers of `bits` bits; value = scale * integer, a bfloat16 scale for every
    `group_size` inputs of an output.

    `scale_candidates`: the scales tried are those that bring the value of greatest magnitude in a
    group to one of them; the one that loses least is taken.
    """

    name: str
    bits: int
    group_size: int
    scale_candidates: tuple[float, ...]

    @property
    def zero(self) -> int:
        """The code of 0; codes are unsigned."""
        return 1 << (self.bits - 1)

    def num_groups(self, num_inputs: int) -> int:
        """Groups of one output; the last may be padded."""
        return -(-num_inputs // self.group_size)

    def code_bytes(self, num_inputs: int) -> int:
        """Bytes of the codes of one output."""
        return self.num_groups(num_inputs) * self.group_size * self.bits // 8

    def num_bytes(self, num_outputs: int, num_inputs: int) -> int:
        """Bytes of codes and scales."""
        return num_outputs * (
            self.code_bytes(num_inputs) + self.num_groups(num_inputs) * _SCALE_BYTES
        )


INT8: Final = WeightFormat("int8", bits=8, group_size=64, scale_candidates=(127.0,))
INT4: Final = WeightFormat("int4", bits=4, group_size=32, scale_candidates=(-8.0, -8.5, -7.5))


@final
@dataclass(frozen=True)
class Quantization:
    """The formats of a model's matrices."""

    layers: WeightFormat
    embedding_and_head: WeightFormat

    @property
    def name(self) -> str:
        """That of the layers' format."""
        return self.layers.name

    def format_of(self, parameter: str) -> WeightFormat:
        """The format of the matrix with this role."""
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
"""Values of `--quantize` that take an unquantized checkpoint, and what stands for them."""

_PARTS = frozenset({"q", "k", "v", "o", "gate", "up", "down", "embedding", "head"})
_QUANTIZED_CHECKPOINTS = ("awq", "compressed-tensors", "exl2", "gptq", "marlin")


def is_quantized(parameter: str, shape: tuple[int, ...]) -> bool:
    """Whether a scheme covers this tensor: matrices of attention and MLP, embedding and head; not
    experts, norms, positions.
    """
    *_, part, kind = parameter.split(".")
    return kind == "weight" and part in _PARTS and len(shape) == 2


def describe_quantization(name: str) -> str:
    """One line for the log: what a value of `QUANTIZATIONS` means."""
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


def refused_quantization(name: str, supported: Iterable[str] = QUANTIZATIONS) -> str:
    """Why a value of `--quantize` cannot be used, and what to do; empty if it can."""
    names = tuple(supported)
    if name in names:
        return ""
    if name in _QUANTIZED_CHECKPOINTS:
        return (
            f"`--quantize {name}` asks for a checkpoint that was quantized that way, which cannot"
            f" be read here; serve the unquantized checkpoint with one of {', '.join(names)}"
        )
    return f"`--quantize {name}` is not supported here; use one of {', '.join(names)}"
