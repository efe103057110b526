"""Quantized weight matrices in the layout of the native kernels (`native/quantized.h`)."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tgi.checkpoints.quantized import CodeKind, ScaleKind, code_values
from tgi.checkpoints.quantized import QuantizedMatrix as CanonicalMatrix
from tgi_cpu.native import NativeLibrary
from tgi_cpu.native_matrices import MatrixPlan
from tgi_cpu.native_records import QuantizedRecord, round_up
from tgi_torch.weights.quantization import quantize
from tgi_torch.weights.weight_formats import WeightFormat

__all__ = ["QuantizedMatrix", "quantized_bytes"]

_ALIGNMENT = 64  # bytes, the size of a vector register
_HALF_PANEL = 16  # columns

# The values of `tgi::Codes`, `tgi::Scales` and `tgi::Zeros`.
_CODES: Mapping[CodeKind, int] = MappingProxyType(
    {
        CodeKind.INTEGER: 0,
        CodeKind.NF4: 1,
        CodeKind.FP4: 1,
        CodeKind.E2M1: 1,
        CodeKind.E4M3: 2,
        CodeKind.E5M2: 3,
    }
)
_SCALES: Mapping[ScaleKind, int] = MappingProxyType(
    {ScaleKind.BF16: 0, ScaleKind.E8M0: 0, ScaleKind.F16: 1, ScaleKind.F32: 2}
)
_CONSTANT_ZERO, _BYTE_ZEROS, _OFFSETS = range(3)
_PACKED = 3  # of `tgi::Scales` and of `tgi::Zeros`

Floats = npt.NDArray[np.float32]


def quantized_bytes(plan: MatrixPlan, weight_format: WeightFormat) -> int:
    """Size of a quantized matrix in bytes, including the padding between its parts."""
    return sum(_part_sizes(plan, weight_format))


def _part_sizes(plan: MatrixPlan, weight_format: WeightFormat) -> list[int]:
    parts = weight_format.part_bytes(plan.padded_columns, plan.num_inputs)
    return [round_up(size, _ALIGNMENT) for size in parts]


@final
class QuantizedMatrix:
    """A weight matrix of codes, scales, and zeros or offsets.

    Rows are quantized or stored piece by piece, so the whole matrix is not in memory in another
    format. The exception are pieces that do not contain whole rows. They are collected until a
    parameter is complete.
    """

    def __init__(
        self,
        plan: MatrixPlan,
        library: NativeLibrary,
        weight_format: WeightFormat,
        memory: npt.NDArray[np.uint8],
    ) -> None:
        self.plan = plan
        self.format = weight_format
        self._library = library
        ends = np.cumsum(_part_sizes(plan, weight_format))
        sizes = weight_format.part_bytes(plan.padded_columns, plan.num_inputs)
        self.codes, self._scales, self._zeros, self._column_scales = (
            memory[end - round_up(size, _ALIGNMENT) :][:size]
            for end, size in zip(ends, sizes, strict=True)
        )
        form = weight_format.form
        self._numbers = None if form.kind is CodeKind.INTEGER else code_values(form.kind, form.bits)
        self._order: npt.NDArray[np.int32] | None = None
        self._positions: npt.NDArray[np.int32] | None = None
        self._staged: dict[str, Tensor] = {}
        self._missing: dict[str, int] = {}
        self._record = QuantizedRecord(
            codes=self.codes.ctypes.data,
            scales=self._scales.ctypes.data,
            zeros=_address(self._zeros),
            numbers=_address(self._numbers),
            column_scales=_address(self._column_scales),
            bits=weight_format.bits,
            group_size=weight_format.group_size(plan.num_inputs),
            code_kind=_CODES[form.kind],
            scale_kind=_PACKED if weight_format.packs_scales else _SCALES[form.scale_kind],
            zero_kind=_zero_kind(weight_format),
            zero=form.zero,
        )

    @property
    def operand(self) -> dict[str, object]:
        """The `OpRecord` field that points to the codes and scales."""
        return {"quantized": ctypes.pointer(self._record)}

    @property
    def scratch_floats(self) -> int:
        """Number of floats for the prepared input rows or for the unpacked panels, whichever is
        larger.
        """
        return self._library.quantized_scratch_floats(self._record, self.plan.num_inputs)

    @property
    def num_bytes(self) -> int:
        """Size of all parts in bytes."""
        return self.format.num_bytes(self.plan.padded_columns, self.plan.num_inputs)

    def dequantize(self) -> Floats:
        """Return the weights, float32 [padded columns, inputs]."""
        return self._library.dequantize(
            self._record, self.plan.padded_columns, self.plan.num_inputs
        )

    def write(self, parameter: str, axis: int, start: int, piece: Tensor) -> None:
        """Quantize `piece`, the part of `parameter` that begins at index `start` of `axis`."""
        if axis == 0:
            self._quantize(parameter, start, piece)
            return
        if parameter not in self._staged:
            rows = self.plan.parameter_rows[parameter]
            self._staged[parameter] = torch.empty(rows, self.plan.num_inputs, dtype=piece.dtype)
            self._missing[parameter] = self.plan.num_inputs
        self._staged[parameter][:, start : start + piece.shape[1]] = piece
        self._missing[parameter] -= piece.shape[1]
        if self._missing[parameter] == 0:
            self._quantize(parameter, 0, self._staged.pop(parameter))

    def write_quantized(self, parameter: str, first_row: int, piece: CanonicalMatrix) -> None:
        """Store rows of `parameter`, beginning with `first_row`, that are already quantized.

        The format of the matrix must be the format of `piece`, or a `common_format` of it.
        """
        stored = replace(self.format.form, group_inputs=self._record.group_size)
        piece = piece.in_form(stored)
        self._set_order(piece.input_order)
        columns = self.plan.columns(parameter)[first_row : first_row + len(piece.scales)]
        self._store_numbers(self._scales, columns, _finite_scales(piece))
        if piece.offsets is not None:
            self._store_numbers(self._zeros, columns, piece.offsets)
        elif piece.zeros is not None:
            self._store_groups(self._zeros, columns, piece.zeros)
        self._library.store_codes(
            np.ascontiguousarray(piece.codes),
            self._record,
            first_column=self.plan.first_column(parameter) + first_row,
            gate_half=self.plan.gate_half(parameter),
        )

    def _quantize(self, parameter: str, first_row: int, rows: Tensor) -> None:
        if self.format.form.kind is not CodeKind.INTEGER:
            self.write_quantized(parameter, first_row, quantize(rows, self.format))
            return
        self._library.quantize(
            rows.float().contiguous().numpy(),
            self._record,
            first_column=self.plan.first_column(parameter) + first_row,
            gate_half=self.plan.gate_half(parameter),
        )

    def _set_order(self, order: npt.NDArray[np.int32] | None) -> None:
        if order is None:
            return
        assert self._order is None or np.array_equal(self._order, order), "another input order"
        if self._order is None:
            self._order = np.ascontiguousarray(order, np.int32)
            self._positions = np.argsort(self._order).astype(np.int32)
            self._record.input_order = _address(self._order)
            self._record.positions = _address(self._positions)

    def _store_numbers(
        self, memory: npt.NDArray[np.uint8], columns: npt.NDArray[np.int64], values: Floats
    ) -> None:
        """Store scales or offsets [columns, groups] in the dtype of the format."""
        self._store_groups(memory, columns, _stored_numbers(values, self.format.form.scale_kind))

    def _store_groups(
        self,
        memory: npt.NDArray[np.uint8],
        columns: npt.NDArray[np.int64],
        values: npt.NDArray[Any],
    ) -> None:
        self._blocks(memory)[columns // _HALF_PANEL, :, columns % _HALF_PANEL] = values

    def _blocks(self, memory: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """View a part of the matrix as [half panels, groups, 16 columns]."""
        half_panels = self.plan.padded_columns // _HALF_PANEL
        groups = self.format.num_groups(self.plan.num_inputs)
        size = memory.size // (half_panels * groups * _HALF_PANEL)
        return memory.view(f"u{size}").reshape(half_panels, groups, _HALF_PANEL)


def _address(array: npt.NDArray[Any] | None) -> int | None:
    return None if array is None or not array.size else int(array.ctypes.data)


def _zero_kind(weight_format: WeightFormat) -> int:
    if weight_format.packs_scales:
        return _PACKED
    if weight_format.form.has_offsets:
        return _OFFSETS
    return _BYTE_ZEROS if weight_format.form.has_zeros else _CONSTANT_ZERO


def _stored_numbers(values: Floats, kind: ScaleKind) -> npt.NDArray[Any]:
    """Convert numbers to the bits in which they are stored."""
    if kind is ScaleKind.F32:
        return np.ascontiguousarray(values).view(np.uint32)
    if kind is ScaleKind.F16:
        return values.astype(np.float16).view(np.uint16)
    numbers = torch.from_numpy(np.ascontiguousarray(values)).bfloat16()
    return numbers.view(torch.int16).numpy().view(np.uint16)


def _finite_scales(piece: CanonicalMatrix) -> Floats:
    """The scales, or NaN for rows that contain a code of a number that is not finite. The kernels
    decode finite numbers only.
    """
    if piece.format.kind not in (CodeKind.E4M3, CodeKind.E5M2):
        return piece.scales
    has_finite_number: npt.NDArray[np.bool_] = np.isfinite(code_values(piece.format.kind))
    is_finite = has_finite_number[piece.codes].all(1, keepdims=True)
    return np.where(is_finite, piece.scales, np.float32(np.nan))
