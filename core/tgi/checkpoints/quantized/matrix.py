"""The data of quantized weights in the canonical form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self, final

import numpy as np
import numpy.typing as npt

from tgi.checkpoints.quantized.code_tables import code_values
from tgi.checkpoints.quantized.number_format import CodeKind, QuantizedFormat

__all__ = ["QuantizedMatrix"]


@final
@dataclass(frozen=True)
class QuantizedMatrix:
    """Some rows of a quantized matrix, or all of them.

    With `group_outputs` > 1 in the checkpoint, the scales of a block are repeated for each of its
    outputs, so every field except `input_order` has one row per output.

    Position `i` of a row of codes belongs to input `input_order[i]`. Groups are contiguous
    positions. Without `input_order`, positions are inputs.
    """

    format: QuantizedFormat
    codes: npt.NDArray[np.uint8]  # [outputs, inputs], one code per byte
    scales: npt.NDArray[np.float32]  # [outputs, groups]
    zeros: npt.NDArray[np.uint8] | None = None  # [outputs, groups]
    offsets: npt.NDArray[np.float32] | None = None  # [outputs, groups]
    input_order: npt.NDArray[np.int32] | None = None  # [inputs]

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs)."""
        outputs, inputs = self.codes.shape
        return outputs, inputs

    def rows(self, index: slice | npt.NDArray[np.int64]) -> Self:
        """Return some outputs of the matrix."""
        return replace(
            self,
            codes=self.codes[index],
            scales=self.scales[index],
            zeros=None if self.zeros is None else self.zeros[index],
            offsets=None if self.offsets is None else self.offsets[index],
        )

    def scaled(self, factor: float) -> Self:
        """Return the matrix multiplied by `factor`."""
        return replace(
            self,
            scales=self.scales * np.float32(factor),
            offsets=None if self.offsets is None else self.offsets * np.float32(factor),
        )

    def dequantize(self) -> npt.NDArray[np.float32]:
        """Return the weights [outputs, inputs] in float32, in the order of the inputs."""
        outputs, inputs = self.shape
        numbers = code_values(self.format.kind, self.format.bits)[self.codes]
        if self.format.kind is CodeKind.INTEGER and self.zeros is None:
            numbers -= np.float32(self.format.zero)
        size = self.format.group_inputs or inputs
        padding = self.format.num_groups(inputs) * size - inputs
        groups = np.pad(numbers, ((0, 0), (0, padding))).reshape(outputs, -1, size)
        if self.zeros is not None:
            groups -= self.zeros[..., None].astype(np.float32)
        groups *= self.scales[..., None]
        if self.offsets is not None:
            groups += self.offsets[..., None]
        stored = groups.reshape(outputs, -1)[:, :inputs]
        if self.input_order is None:
            return np.ascontiguousarray(stored)
        weights = np.empty_like(stored)
        weights[:, self.input_order] = stored
        return weights
