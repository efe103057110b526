"""The values of `--quantize` and their meaning on every backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

__all__ = ["QUANTIZATION_MEANINGS", "QuantizationMeaning"]

_BY_CHECKPOINT = "as stored in the checkpoint"
_BY_BACKEND = "a scale per output, or per group of inputs of an output; the backend chooses"


@final
@dataclass(frozen=True)
class QuantizationMeaning:
    """The meaning of a value of `--quantize`.

    `text` is a verb phrase with the server as its subject. `weight_bits` is the size of a weight in
    bits, or None if the checkpoint determines the size. `granularity` describes the groups of
    weights that share a scale. `reads_checkpoint` is True if the checkpoint must already be
    quantized. Otherwise the weights of an unquantized checkpoint are quantized during loading.
    """

    text: str
    weight_bits: int | None
    granularity: str
    reads_checkpoint: bool


def _reads(method: str, weight_bits: int | None) -> QuantizationMeaning:
    text = f"reads checkpoints that were quantized with {method}"
    return QuantizationMeaning(text, weight_bits, _BY_CHECKPOINT, True)


def _rounds(numbers: str, weight_bits: int) -> QuantizationMeaning:
    text = f"rounds the weights to {weight_bits}-bit {numbers} while they are loaded"
    return QuantizationMeaning(text, weight_bits, _BY_BACKEND, False)


QUANTIZATION_MEANINGS: Mapping[str, QuantizationMeaning] = MappingProxyType(
    {
        "awq": _reads("AWQ", 4),
        "compressed-tensors": _reads("compressed-tensors", None),
        "eetq": _rounds("integers", 8),
        "exl2": _reads("EXL2", None),
        "gptq": _reads("GPTQ", None),
        "marlin": _reads("Marlin", 4),
        "bitsandbytes": _rounds("integers", 8),
        "bitsandbytes-nf4": _rounds("numbers of the type nf4", 4),
        "bitsandbytes-fp4": _rounds("numbers of the type fp4", 4),
        "fp8": _rounds("floating-point numbers (e4m3)", 8),
        "int8": _rounds("integers", 8),
        "int4": _rounds("integers", 4),
    }
)
"""Maps each value of `--quantize` to its meaning, in the order of the help text. `eetq` and
`bitsandbytes` are names of TGI 3 for 8-bit integers.
"""
