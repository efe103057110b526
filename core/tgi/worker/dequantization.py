"""Reports the cost of a quantized checkpoint whose weights a backend dequantizes while it loads
them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import final

from tgi.backend.errors import ModelError
from tgi.checkpoints.checkpoint import LogicalTensors, read_headers
from tgi.worker.memory.limits import format_bytes

__all__ = ["Dequantization", "dequantization_of"]


@final
@dataclass(frozen=True)
class Dequantization:
    """The quantized weights of a checkpoint. `description` is the format of the checkpoint, and
    `formats` are the formats of its matrices. `stored_bytes` is the size of the quantized weights
    in the files, and `num_weights` is their number.
    """

    description: str
    formats: tuple[str, ...]
    stored_bytes: int
    num_weights: int

    @classmethod
    def of(cls, tensors: LogicalTensors) -> Dequantization | None:
        """Describe the quantized tensors of a checkpoint. The result is None if there are none."""
        if tensors.format is None or not tensors.quantized:
            return None
        quantized = tensors.quantized.values()
        return cls(
            tensors.format.description,
            tuple(sorted({tensor.format.name for tensor in quantized})),
            sum(tensor.num_bytes for tensor in quantized),
            sum(math.prod(tensor.shape) for tensor in quantized),
        )

    def detail(self, dtype: str) -> str:
        """The format of the weights in memory, for a table."""
        return f"{dtype}, dequantized from {self.description}"

    def cost(self, value_bytes: int) -> str:
        """The memory of the quantized weights, if each weight has `value_bytes` bytes."""
        dequantized = format_bytes(self.num_weights * value_bytes)
        return f"{dequantized} instead of {format_bytes(self.stored_bytes)} of memory"

    def line(self, dtype: str, value_bytes: int) -> str:
        """A log line about the weights in memory."""
        return (
            f"the quantized weights ({', '.join(self.formats)}) are dequantized to {dtype} while"
            f" they are loaded, because this backend has no kernels for them; they need"
            f" {self.cost(value_bytes)}"
        )


def dequantization_of(model_path: str) -> Dequantization | None:
    """Describe the quantized tensors of a checkpoint. The result is None if there are none, and if
    a file is damaged, because the loader reports this error.
    """
    try:
        return Dequantization.of(read_headers(Path(model_path)))
    except ModelError:
        return None
