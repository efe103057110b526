"""The table of the formats of quantized checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from tgi.checkpoints.formats import (
    awq,
    bitsandbytes,
    compressed_tensors,
    eetq,
    exl2,
    fp8,
    gptq,
    marlin,
    mxfp4,
    torchao,
)
from tgi.checkpoints.quantized_tensor import CheckpointFormat
from tgi.checkpoints.settings import Settings

__all__ = ["FORMATS"]

FORMATS: Mapping[str, Callable[[Settings], CheckpointFormat]] = MappingProxyType(
    {
        "awq": awq.read,
        "bitsandbytes": bitsandbytes.read,
        "compressed-tensors": compressed_tensors.read,
        "eetq": eetq.read,
        "exl2": exl2.read,
        "fbgemm_fp8": fp8.read,
        "fp8": fp8.read,
        "gptq": gptq.read,
        "marlin": marlin.read,
        "mxfp4": mxfp4.read,
        "torchao": torchao.read,
    }
)
"""Maps each value of `quant_method` to the function that reads the settings of the format. The
function raises `ModelError` if a setting is not supported.
"""
