"""The canonical form of quantized weights. Every checkpoint format is converted to this form, and
every backend computes from it.
"""

from tgi.checkpoints.quantized.code_tables import code_values
from tgi.checkpoints.quantized.matrix import QuantizedMatrix
from tgi.checkpoints.quantized.number_format import (
    Activation,
    CodeKind,
    QuantizedFormat,
    ScaleKind,
)

__all__ = [
    "Activation",
    "CodeKind",
    "QuantizedFormat",
    "QuantizedMatrix",
    "ScaleKind",
    "code_values",
]
