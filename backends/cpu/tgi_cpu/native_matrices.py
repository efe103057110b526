"""Matrices as the native kernels read them: bfloat16 in panels, the same without loss in 12 bits,
or quantized.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tgi_cpu.native import PANEL_COLUMNS, CompressedRecord, NativeLibrary, QuantizedRecord, round_up
from tgi_torch.weights.weight_formats import WeightFormat

__all__ = ["CompressedMatrix", "Matrix", "MatrixPlan", "PackedMatrix", "QuantizedMatrix"]

_HALF_PANEL = PANEL_COLUMNS // 2


@final
@dataclass(frozen=True)
class MatrixPlan:
    """A weight made of the rows of one or more roles. `gated`: gate and up take turns, half a panel
    each.
    """

    parameter_rows: Mapping[str, int]
    num_inputs: int
    gated: bool = False

    @property
    def num_columns(self) -> int:
        """Columns, those that pad a gate included."""
        if self.gated:
            return 2 * round_up(max(self.parameter_rows.values()), _HALF_PANEL)
        return sum(self.parameter_rows.values())

    @property
    def padded_columns(self) -> int:
        """Columns of whole panels."""
        return round_up(self.num_columns, PANEL_COLUMNS)

    def num_bytes(self, weight_format: WeightFormat | None) -> int:
        """Memory of the panels, in bfloat16 or in `weight_format`."""
        if weight_format is None:
            return 2 * self.padded_columns * round_up(self.num_inputs, 2)
        return weight_format.num_bytes(self.padded_columns, self.num_inputs)

    def first_column(self, parameter: str) -> int:
        """The packed column of the first row of `parameter`; where it is gated, counted in its own
        half panels.
        """
        return 0 if self.gated else int(self.columns(parameter)[0])

    def gate_half(self, parameter: str) -> int:
        """Which half of a panel `parameter` fills; -1 where panels are not shared."""
        return list(self.parameter_rows).index(parameter) if self.gated else -1

    def columns(self, parameter: str) -> npt.NDArray[np.int64]:
        """The packed column of each row of `parameter`."""
        rows = np.arange(self.parameter_rows[parameter])
        names = list(self.parameter_rows)
        if self.gated:
            return (
                rows // _HALF_PANEL * PANEL_COLUMNS
                + names.index(parameter) * _HALF_PANEL
                + rows % _HALF_PANEL
            )
        return rows + sum(self.parameter_rows[name] for name in names[: names.index(parameter)])


class Matrix(Protocol):
    """A weight in memory that outlives it."""

    @property
    def plan(self) -> MatrixPlan:
        """Its roles and its size."""

    @property
    def operand(self) -> dict[str, object]:
        """The fields of an operation that point to it; valid as long as the matrix lives."""

    @property
    def scratch_floats(self) -> int:
        """Working memory that a thread needs for a product."""

    @property
    def num_bytes(self) -> int:
        """Memory it takes."""


@final
@dataclass(frozen=True)
class PackedMatrix:
    """A plan and its bfloat16 panels."""

    plan: MatrixPlan
    library: NativeLibrary
    panels: npt.NDArray[np.uint16]

    @property
    def operand(self) -> dict[str, object]:
        """The panels."""
        return {"weight": self.panels.ctypes.data}

    @property
    def scratch_floats(self) -> int:
        """None."""
        return 0

    @property
    def num_bytes(self) -> int:
        """Of the panels."""
        return self.panels.nbytes

    def compressed(self) -> PackedMatrix | CompressedMatrix:
        """The same weights in 12 bits, at the beginning of the memory where they stood; itself if
        that would save too little.
        """
        found = self.library.compress(self.panels, self.plan.num_inputs)
        return (
            self
            if found is None
            else CompressedMatrix(self.plan, self.library, self.panels.view(np.uint8), *found)
        )

    def moved(self, memory: npt.NDArray[np.uint8]) -> PackedMatrix:
        """The same matrix, moved into `memory`, which may overlap where it stood."""
        ctypes.memmove(memory.ctypes.data, self.panels.ctypes.data, self.num_bytes)
        return PackedMatrix(self.plan, self.library, memory[: self.num_bytes].view(np.uint16))

    def write(self, parameter: str, axis: int, start: int, piece: Tensor) -> None:
        """Take the part of `parameter` from index `start` of `axis` on."""
        self.library.pack(
            piece.to(torch.bfloat16).contiguous().view(torch.int16).numpy().view(np.uint16),
            self.panels,
            self.plan.num_inputs,
            first_column=self.plan.first_column(parameter) + (start if axis == 0 else 0),
            first_input=start if axis == 1 else 0,
            gate_half=self.plan.gate_half(parameter),
        )


@final
class CompressedMatrix:
    """A plan and its bfloat16 panels without loss in 12 bits a weight (`native/compressed.h`).

    After Zhang et al., "70% Size, 100% Accuracy" (DFloat11), arXiv:2504.11651: the exponents of
    weights hold little information. Here codes have one length, so that they are decoded in
    registers.
    """

    def __init__(
        self,
        plan: MatrixPlan,
        library: NativeLibrary,
        memory: npt.NDArray[np.uint8],
        outliers: npt.NDArray[np.void],
        outlier_starts: npt.NDArray[np.int32],
    ) -> None:
        self.plan = plan
        self.outliers = outliers
        self.outlier_starts = outlier_starts  # [panels + 1]
        self.panels = memory[
            : library.compressed_panel_bytes(plan.num_inputs) * (len(outlier_starts) - 1)
        ]
        self._library = library
        self._record = CompressedRecord(
            panels=self.panels.ctypes.data,
            outliers=outliers.ctypes.data,
            outlier_starts=outlier_starts.ctypes.data,
        )

    @property
    def operand(self) -> dict[str, object]:
        """Panels and outliers."""
        return {"compressed": ctypes.pointer(self._record)}

    @property
    def scratch_floats(self) -> int:
        """A panel unpacked."""
        return self._library.compressed_scratch_floats(self.plan.num_inputs)

    @property
    def num_bytes(self) -> int:
        """Of the panels; outliers are few."""
        return self.panels.nbytes

    def moved(self, memory: npt.NDArray[np.uint8]) -> CompressedMatrix:
        """The same matrix, moved into `memory`, which may overlap where it stood."""
        ctypes.memmove(memory.ctypes.data, self.panels.ctypes.data, self.num_bytes)
        return CompressedMatrix(
            self.plan, self._library, memory, self.outliers, self.outlier_starts
        )


@final
class QuantizedMatrix:
    """A plan with codes and scales: they are made piece by piece, so the matrix never stands in
    memory in another dtype.
    """

    def __init__(
        self,
        plan: MatrixPlan,
        library: NativeLibrary,
        weight_format: WeightFormat,
        memory: npt.NDArray[np.uint8],
    ) -> None:
        self.plan = plan
        num_codes = plan.padded_columns * weight_format.code_bytes(plan.num_inputs)
        self.codes, self.scales = memory[:num_codes], memory[num_codes:]
        self._library = library
        self._format = weight_format
        self._record = QuantizedRecord(
            codes=self.codes.ctypes.data,
            scales=self.scales.ctypes.data,
            bits=weight_format.bits,
            group_size=weight_format.group_size,
        )

    @property
    def operand(self) -> dict[str, object]:
        """Codes and scales."""
        return {"quantized": ctypes.pointer(self._record)}

    @property
    def scratch_floats(self) -> int:
        """Rows as integers, or a panel unpacked."""
        return self._library.quantized_scratch_floats(self._record, self.plan.num_inputs)

    @property
    def num_bytes(self) -> int:
        """Of codes and scales."""
        return self.codes.nbytes + self.scales.nbytes

    def write(self, parameter: str, axis: int, start: int, piece: Tensor) -> None:
        """Quantize the part of `parameter` from index `start` of `axis` on. Along the inputs, parts
        begin with a group.
        """
        first_input = start if axis == 1 else 0
        assert first_input % self._format.group_size == 0, (
            f"{parameter}: a part begins inside a group, at input {first_input}"
        )
        self._library.quantize(
            piece.float().contiguous().numpy(),
            self._record,
            self.plan.num_inputs,
            self._format.scale_candidates,
            first_column=self.plan.first_column(parameter) + (start if axis == 0 else 0),
            first_input=first_input,
            gate_half=self.plan.gate_half(parameter),
        )
