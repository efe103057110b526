"""Weight matrices in the layouts that the native kernels read.

A panel is a group of `PANEL_COLUMNS` columns that are stored together. A matrix is stored as
bfloat16 panels, as panels compressed to 12 bits per weight without loss, or as quantized codes
(`native_quantized`). A packed column is a column of the stored matrix. It contains one row of a
parameter.
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

from tgi_cpu.native import NativeLibrary
from tgi_cpu.native_records import PANEL_COLUMNS, CompressedRecord, round_up

__all__ = ["CompressedMatrix", "Matrix", "MatrixPlan", "PackedMatrix"]

_HALF_PANEL = PANEL_COLUMNS // 2


@final
@dataclass(frozen=True)
class MatrixPlan:
    """The layout of a matrix that contains the rows of one or more parameters.

    If `gated`, each panel contains columns of the gate in its first half and columns of the up
    projection in its second half.
    """

    parameter_rows: Mapping[str, int]
    num_inputs: int
    gated: bool = False

    @property
    def num_columns(self) -> int:
        """Number of columns, including the padding of gate and up projection."""
        if self.gated:
            return 2 * round_up(max(self.parameter_rows.values()), _HALF_PANEL)
        return sum(self.parameter_rows.values())

    @property
    def padded_columns(self) -> int:
        """Number of columns, rounded up to whole panels."""
        return round_up(self.num_columns, PANEL_COLUMNS)

    @property
    def num_bytes(self) -> int:
        """Size of the panels in bytes, in bfloat16."""
        return 2 * self.padded_columns * round_up(self.num_inputs, 2)

    def first_column(self, parameter: str) -> int:
        """The packed column that contains the first row of `parameter`.

        In a gated matrix, the columns are numbered separately in each half of the panels, so the
        result is 0. `gate_half` returns the half of each panel that contains `parameter`.
        """
        return 0 if self.gated else int(self.columns(parameter)[0])

    def gate_half(self, parameter: str) -> int:
        """The half of each panel that contains `parameter`: 0 or 1, or -1 if the matrix is not
        gated.
        """
        return list(self.parameter_rows).index(parameter) if self.gated else -1

    def columns(self, parameter: str) -> npt.NDArray[np.int64]:
        """The packed column of each row of `parameter`, as int64 [rows]."""
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
    """A weight matrix. The memory of its values is owned by `NativeWeights`."""

    @property
    def plan(self) -> MatrixPlan:
        """The parameters and the size of the matrix."""

    @property
    def operand(self) -> dict[str, object]:
        """The fields of an `OpRecord` that point to the matrix. The pointers are valid while the
        matrix exists.
        """

    @property
    def scratch_floats(self) -> int:
        """Number of floats of scratch memory that a thread needs to multiply by the matrix."""

    @property
    def num_bytes(self) -> int:
        """Size of the matrix in bytes."""


@final
@dataclass(frozen=True)
class PackedMatrix:
    """A weight matrix in bfloat16 panels."""

    plan: MatrixPlan
    library: NativeLibrary
    panels: npt.NDArray[np.uint16]

    @property
    def operand(self) -> dict[str, object]:
        """The `OpRecord` field with the address of the panels."""
        return {"weight": self.panels.ctypes.data}

    @property
    def scratch_floats(self) -> int:
        """The value is 0, because bfloat16 panels are multiplied without scratch memory."""
        return 0

    @property
    def num_bytes(self) -> int:
        """Size of the panels in bytes."""
        return self.panels.nbytes

    def compressed(self) -> PackedMatrix | CompressedMatrix:
        """The same weights in 12 bits each, stored at the beginning of the same memory.

        Returns the matrix itself if compression would save too little.
        """
        found = self.library.compress(self.panels, self.plan.num_inputs)
        return (
            self
            if found is None
            else CompressedMatrix(self.plan, self.library, self.panels.view(np.uint8), *found)
        )

    def moved(self, memory: npt.NDArray[np.uint8]) -> PackedMatrix:
        """Copy the matrix into `memory`, which may overlap its present memory."""
        ctypes.memmove(memory.ctypes.data, self.panels.ctypes.data, self.num_bytes)
        return PackedMatrix(self.plan, self.library, memory[: self.num_bytes].view(np.uint16))

    def write(self, parameter: str, axis: int, start: int, piece: Tensor) -> None:
        """Store `piece`, the part of `parameter` that begins at index `start` of `axis`."""
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
    """A weight matrix of bfloat16 values, compressed to 12 bits each without loss.

    An outlier is a weight whose exponent has no 4-bit code. Outliers are stored in a separate list.
    See `native/compressed.h`. The idea follows Zhang et al., "70% Size, 100% Accuracy" (DFloat11),
    arXiv:2504.11651: the exponents of weights contain little information. All codes here have the
    same length, so that they can be decoded in registers.
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
        """The `OpRecord` field that points to the panels and outliers."""
        return {"compressed": ctypes.pointer(self._record)}

    @property
    def scratch_floats(self) -> int:
        """Number of floats in one decompressed panel."""
        return self._library.compressed_scratch_floats(self.plan.num_inputs)

    @property
    def num_bytes(self) -> int:
        """Size of the panels in bytes. Outliers are not counted because there are few."""
        return self.panels.nbytes

    def moved(self, memory: npt.NDArray[np.uint8]) -> CompressedMatrix:
        """Copy the matrix into `memory`, which may overlap its present memory."""
        ctypes.memmove(memory.ctypes.data, self.panels.ctypes.data, self.num_bytes)
        return CompressedMatrix(
            self.plan, self._library, memory, self.outliers, self.outlier_starts
        )
