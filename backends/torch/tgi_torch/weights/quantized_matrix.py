"""Quantized matrices for processors and models that the native kernels do not support.

Weights are quantized row by row while they are loaded, or they are already quantized in the
checkpoint. Torch's own CPU kernels multiply the formats of `--quantize int8` and `int4`. Matrices
in other formats are dequantized in parts for each product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from tgi.checkpoints.quantized import QuantizedMatrix as CanonicalMatrix
from tgi.checkpoints.quantized import ScaleKind
from tgi_torch.weights.quantization import quantize
from tgi_torch.weights.weight_formats import INT4, INT8, WeightFormat

__all__ = ["QuantizedMatrix"]

_MAX_BYTE_ROWS = 16  # with more rows, multiplying by the dequantized matrix is faster
_MULTIPLE = 64  # torch's kernels read beyond the end of a matrix if its size is not a multiple
_PART_WEIGHTS = 1 << 20  # weights that are dequantized at once
_INT8_PER_OUTPUT = replace(INT8, form=replace(INT8.form, group_inputs=None))


class _Storage(Protocol):
    """The codes and scales of a matrix [outputs, inputs]."""

    @property
    def num_bytes(self) -> int:
        """Size in bytes of all parts."""

    def store(self, first_row: int, rows: CanonicalMatrix) -> None:
        """Store some rows."""

    def finish(self) -> None:
        """Convert the matrix to the layout of the kernel, after the last row was stored."""

    def multiply(self, x: Tensor) -> Tensor:
        """Multiply x [T, inputs] by the transposed matrix. Returns [T, outputs]."""

    def lookup(self, ids: Tensor) -> Tensor:
        """Dequantize the rows int64 [T] of the matrix. Returns [T, inputs]."""


@final
class _Bytes:
    """Integers of 8 bits with one scale per output, which torch's kernel requires."""

    def __init__(self, num_outputs: int, num_inputs: int, dtype: torch.dtype) -> None:
        self._shape = num_outputs, num_inputs
        self._codes = torch.zeros(_padded(num_outputs), _padded(num_inputs), dtype=torch.int8)
        self._scales = torch.zeros(_padded(num_outputs), 1, dtype=dtype)

    @property
    def num_bytes(self) -> int:
        return self._codes.nbytes + self._scales.nbytes

    def store(self, first_row: int, rows: CanonicalMatrix) -> None:
        codes = torch.from_numpy(rows.codes).to(torch.int16) - rows.format.zero
        place = slice(first_row, first_row + len(codes))
        self._codes[place, : self._shape[1]] = codes.to(torch.int8)
        self._scales[place] = torch.from_numpy(rows.scales)

    def finish(self) -> None:
        """Do nothing, because the codes are stored in the layout of the kernel."""

    def multiply(self, x: Tensor) -> Tensor:
        x = _padded_columns(x)
        if len(x) > _MAX_BYTE_ROWS:
            product = functional.linear(x, self._codes.to(x.dtype) * self._scales)
        else:
            product = torch._weight_int8pack_mm(x, self._codes, self._scales.squeeze(-1))
        return product[:, : self._shape[0]]

    def lookup(self, ids: Tensor) -> Tensor:
        codes = self._codes.index_select(0, ids)[:, : self._shape[1]]
        return codes.to(self._scales.dtype) * self._scales.index_select(0, ids)


@final
class _Nibbles:
    """Integers of 4 bits with a scale and an offset for each group, for torch's kernel."""

    def __init__(
        self, num_outputs: int, num_inputs: int, group_size: int, dtype: torch.dtype
    ) -> None:
        self._num_outputs = num_outputs
        self._group_size = group_size
        outputs, inputs = _padded(num_outputs), _padded(num_inputs)
        self._codes = torch.zeros(outputs, inputs, dtype=torch.uint8)
        # The weight is scale * (code - 8) + offset.
        self._scales_and_offsets = torch.zeros(inputs // group_size, outputs, 2, dtype=dtype)
        self._packed = torch.empty(0)

    @property
    def num_bytes(self) -> int:
        return self._codes.nbytes + self._packed.nbytes + self._scales_and_offsets.nbytes

    def store(self, first_row: int, rows: CanonicalMatrix) -> None:
        assert rows.offsets is not None, "the format has an offset for each group"
        place, (count, inputs) = slice(first_row, first_row + len(rows.codes)), rows.shape
        self._codes[place, :inputs] = torch.from_numpy(rows.codes)
        scales, offsets = torch.from_numpy(rows.scales), torch.from_numpy(rows.offsets)
        groups = self._scales_and_offsets[: scales.shape[1], first_row : first_row + count]
        groups[..., 0] = scales.T
        groups[..., 1] = (offsets + 8 * scales).T

    def finish(self) -> None:
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
            self._codes.to(torch.int32), 1
        )
        self._codes = torch.empty(0)

    def multiply(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            _padded_columns(x), self._packed, self._group_size, self._scales_and_offsets
        )
        return product[:, : self._num_outputs]

    def lookup(self, ids: Tensor) -> Tensor:
        raise AssertionError("rows of packed codes cannot be read")


@final
class _AnyFormat:
    """Any canonical format. Parts of the matrix are dequantized for each product."""

    def __init__(
        self, num_outputs: int, num_inputs: int, weight_format: WeightFormat, dtype: torch.dtype
    ) -> None:
        self._form, self._dtype = weight_format.form, dtype
        self._num_inputs = num_inputs
        groups = self._form.num_groups(num_inputs)
        self._is_packed = weight_format.bits == 4
        width = -(-num_inputs // 2) if self._is_packed else num_inputs
        kind = {ScaleKind.F32: torch.float32, ScaleKind.F16: torch.float16}.get(
            self._form.scale_kind, torch.bfloat16
        )
        self._codes = torch.zeros(num_outputs, width, dtype=torch.uint8)
        self._scales = torch.zeros(num_outputs, groups, dtype=kind)
        self._offsets = torch.zeros_like(self._scales) if self._form.has_offsets else None
        self._zeros = (
            torch.zeros(num_outputs, groups, dtype=torch.uint8) if self._form.has_zeros else None
        )
        self._order: npt.NDArray[np.int32] | None = None

    @property
    def num_bytes(self) -> int:
        parts = (self._codes, self._scales, self._offsets, self._zeros)
        return sum(part.nbytes for part in parts if part is not None)

    def store(self, first_row: int, rows: CanonicalMatrix) -> None:
        rows = rows.in_form(self._form)
        place = slice(first_row, first_row + len(rows.codes))
        # Codes of one byte are a view of the file, for which torch prints a warning.
        codes = torch.from_numpy(np.require(rows.codes, requirements="W"))
        if self._is_packed:
            codes = functional.pad(codes, (0, codes.shape[1] % 2))
            codes = codes[:, ::2] | codes[:, 1::2] << 4
        self._codes[place] = codes
        self._scales[place] = torch.from_numpy(rows.scales)
        if self._offsets is not None and rows.offsets is not None:
            self._offsets[place] = torch.from_numpy(rows.offsets)
        if self._zeros is not None and rows.zeros is not None:
            self._zeros[place] = torch.from_numpy(rows.zeros)
        if rows.input_order is not None:
            assert self._order is None or np.array_equal(self._order, rows.input_order)
            self._order = rows.input_order

    def finish(self) -> None:
        """Do nothing, because the codes need no other layout."""

    def multiply(self, x: Tensor) -> Tensor:
        num_outputs = len(self._codes)
        step = max(1, _PART_WEIGHTS // self._num_inputs)
        parts = [
            functional.linear(x, self._dequantize(slice(start, start + step)))
            for start in range(0, num_outputs, step)
        ]
        return torch.cat(parts, -1)

    def lookup(self, ids: Tensor) -> Tensor:
        return self._dequantize(ids)

    def _dequantize(self, rows: slice | Tensor) -> Tensor:
        codes = self._codes[rows]
        if self._is_packed:
            codes = torch.stack([codes & 15, codes >> 4], -1).flatten(1)[:, : self._num_inputs]
        matrix = CanonicalMatrix(
            self._form,
            codes.numpy(),
            self._scales[rows].float().numpy(),
            None if self._zeros is None else self._zeros[rows].numpy(),
            None if self._offsets is None else self._offsets[rows].float().numpy(),
            self._order,
        )
        return torch.from_numpy(matrix.dequantize()).to(self._dtype)


def _storage(
    num_outputs: int, num_inputs: int, weight_format: WeightFormat, dtype: torch.dtype
) -> _Storage:
    if weight_format == _INT8_PER_OUTPUT:
        return _Bytes(num_outputs, num_inputs, dtype)
    if weight_format == INT4:
        size = weight_format.form.group_inputs
        assert size is not None, "int4 has groups"
        return _Nibbles(num_outputs, num_inputs, size, dtype)
    return _AnyFormat(num_outputs, num_inputs, weight_format, dtype)


@final
class QuantizedMatrix:
    """A matrix [outputs, inputs] that consists of the rows of one or more parameters.

    `dtype` is the dtype of the activations.
    """

    def __init__(
        self,
        rows: Mapping[str, int],
        num_inputs: int,
        weight_format: WeightFormat,
        dtype: torch.dtype,
    ) -> None:
        self.num_outputs = sum(rows.values())
        self.num_inputs = num_inputs
        self._format = _INT8_PER_OUTPUT if weight_format == INT8 else weight_format
        self._storage = _storage(self.num_outputs, num_inputs, self._format, dtype)
        self._starts = {
            parameter: sum(list(rows.values())[:place]) for place, parameter in enumerate(rows)
        }
        self._rows = dict(rows)
        self._missing = self.num_outputs * num_inputs  # weights that are not yet stored
        # Pieces that do not contain whole rows are collected until their parameter is complete.
        self._staged: dict[str, Tensor] = {}
        self._staged_inputs: dict[str, int] = {}

    @property
    def num_bytes(self) -> int:
        """Size in bytes of codes, scales and offsets."""
        return self._storage.num_bytes

    def write(self, parameter: str, axis: int, start: int, piece: Tensor) -> None:
        """Quantize `piece`, the part of `parameter` that begins at index `start` of `axis`."""
        if axis == 0:
            self.write_quantized(parameter, start, quantize(piece, self._format))
            return
        if parameter not in self._staged:
            self._staged[parameter] = torch.empty(
                self._rows[parameter], self.num_inputs, dtype=piece.dtype
            )
            self._staged_inputs[parameter] = 0
        self._staged[parameter][:, start : start + piece.shape[1]] = piece
        self._staged_inputs[parameter] += piece.shape[1]
        if self._staged_inputs[parameter] == self.num_inputs:
            rows = self._staged.pop(parameter)
            self.write_quantized(parameter, 0, quantize(rows, self._format))

    def write_quantized(self, parameter: str, first_row: int, piece: CanonicalMatrix) -> None:
        """Store rows of `parameter`, beginning with `first_row`, that are already quantized."""
        self._storage.store(self._starts[parameter] + first_row, piece)
        self._missing -= piece.codes.size
        if self._missing == 0:
            self._storage.finish()

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return x W' + b for x [..., inputs]."""
        rows = x.reshape(-1, self.num_inputs).contiguous()
        product = self._storage.multiply(rows).reshape(*x.shape[:-1], self.num_outputs)
        return product if bias is None else product + bias

    def lookup(self, ids: Tensor) -> Tensor:
        """Look up the rows [T, inputs] of the matrix for int64 [T]."""
        return self._storage.lookup(ids)


def _padded_columns(x: Tensor) -> Tensor:
    missing = _padded(x.shape[1]) - x.shape[1]
    return functional.pad(x, (0, missing)) if missing else x


def _padded(size: int) -> int:
    return -(-size // _MULTIPLE) * _MULTIPLE
