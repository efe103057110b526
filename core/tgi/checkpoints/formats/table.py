"""The table of the formats of quantized checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from tgi.checkpoints.formats import awq, gptq, marlin
from tgi.checkpoints.quantized_tensor import CheckpointFormat
from tgi.checkpoints.settings import Settings

__all__ = ["FORMATS"]

FORMATS: Mapping[str, Callable[[Settings], CheckpointFormat]] = MappingProxyType(
    {
        "awq": awq.read,
        "gptq": gptq.read,
        "marlin": marlin.read,
    }
)
"""Maps each value of `quant_method` to the function that reads the settings of the format. The
function raises `ModelError` if a setting is not supported.
"""
