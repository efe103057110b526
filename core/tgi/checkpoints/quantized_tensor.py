"""A quantized weight of a checkpoint: the stored tensors that it consists of, and the function that
converts them to the canonical form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy.typing as npt

from tgi.architectures.checkpoint import StoredTensor
from tgi.checkpoints.quantized import QuantizedFormat, QuantizedMatrix

__all__ = ["Array", "CheckpointFormat", "Decode", "QuantizedTensor", "Read"]

Array = npt.NDArray[Any]

Read = Callable[[str], Array]
"""Returns the data of a stored tensor as a view of the file. BF16 tensors are returned as uint16,
and fp8 tensors as uint8. `Decode` reads a tensor by its key in `QuantizedTensor.parts`, for example
`qweight`, and `CheckpointFormat.tensors` by its name in the checkpoint.
"""

Decode = Callable[[Read, int | None, slice], QuantizedMatrix]
"""`decode(read, expert, rows)` returns some rows of the matrix, or of one expert's matrix.

`rows` begins and ends at a multiple of `QuantizedTensor.row_multiple`, or at the last row.
"""


@final
@dataclass(frozen=True)
class QuantizedTensor:
    """A quantized weight. `name` is the name that the weight has in an unquantized checkpoint, for
    example `model.layers.0.mlp.up_proj.weight`.
    """

    name: str
    shape: tuple[int, ...]  # [outputs, inputs] or [experts, outputs, inputs]
    format: QuantizedFormat
    parts: Mapping[str, StoredTensor]  # by key, for example `qweight`
    decode: Decode
    row_multiple: int = 1

    @property
    def num_bytes(self) -> int:
        """Size of the stored tensors in bytes."""
        return sum(stored.num_bytes for stored in self.parts.values())


class CheckpointFormat(Protocol):
    """A format of quantized checkpoints, with the settings of one checkpoint."""

    @property
    def name(self) -> str:
        """The name of the format, for example `gptq`. It is a value of `--quantize` if there is
        such a value.
        """

    @property
    def description(self) -> str:
        """One line for tables and logs, for example `GPTQ, 4 bits in groups of 128`."""

    def tensors(
        self, stored: Mapping[str, StoredTensor], read: Read
    ) -> Mapping[str, QuantizedTensor]:
        """Find the quantized weights among all stored tensors of a checkpoint. Returns them by
        `QuantizedTensor.name`. Stored tensors that no weight uses remain ordinary tensors.

        Some formats store the shape of a weight, or the bits of its groups, as data. Only such
        small tensors are read.

        Raises `ModelError` with the name of the tensor if a part is missing, or has the wrong shape
        or dtype.
        """
