"""Matrices that are quantized while they are loaded.

Torch's own CPU kernels multiply them. With 8 bits there is one scale per output, because torch's
kernel requires this layout. With 4 bits there is one scale per group. Only one parameter at a time
is in memory in its original dtype.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from tgi_torch.weights.quantization import QuantizedTensor, quantize
from tgi_torch.weights.weight_formats import WeightFormat

__all__ = ["QuantizedMatrix"]

_MAX_BYTE_ROWS = 16  # with more rows, multiplying by the dequantized matrix is faster
_MULTIPLE = 64  # torch's kernels read beyond the end of a matrix if its size is not a multiple


@final
class QuantizedMatrix:
    """A matrix [outputs, inputs] that consists of the rows of one or more parameters.

    `dtype` is the dtype of the activations and scales.
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
        self._bits = weight_format.bits
        self._padded_inputs = _padded(num_inputs)
        self._format = (
            replace(weight_format, group_size=self._padded_inputs)
            if self._bits == 8
            else weight_format
        )
        outputs, groups = _padded(self.num_outputs), self._format.num_groups(self._padded_inputs)
        self._codes = torch.zeros(outputs, self._padded_inputs, dtype=torch.int8)
        self._scales = torch.zeros(outputs, groups, dtype=dtype)
        self._starts = {
            parameter: sum(list(rows.values())[:place]) for place, parameter in enumerate(rows)
        }
        self._rows = dict(rows)
        self._left = {parameter: count * num_inputs for parameter, count in rows.items()}
        self._staged: dict[str, Tensor] = {}
        self._packed: Tensor | None = None
        self._scales_and_zeros: Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Size in bytes of codes and scales."""
        codes = self._codes if self._packed is None else self._packed
        scales = self._scales if self._scales_and_zeros is None else self._scales_and_zeros
        return codes.nbytes + scales.nbytes

    def write(self, parameter: str, axis: int, start: int, piece: Tensor) -> None:
        """Store `piece`, the part of `parameter` that begins at index `start` of `axis`.

        A parameter is quantized when its last part has been stored.
        """
        if parameter not in self._staged:
            self._staged[parameter] = torch.empty(
                self._rows[parameter], self.num_inputs, dtype=piece.dtype
            )
        self._staged[parameter].narrow(axis, start, piece.shape[axis]).copy_(piece)
        self._left[parameter] -= piece.numel()
        if self._left[parameter] == 0:
            self._take(
                parameter, quantize(self._padded_columns(self._staged.pop(parameter)), self._format)
            )
        if self._bits == 4 and not any(self._left.values()):
            self._pack()

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return x W' + b for x [..., inputs]."""
        rows = self._padded_columns(x.reshape(-1, self.num_inputs)).contiguous()
        product = self._multiply_rows(rows)[:, : self.num_outputs].reshape(
            *x.shape[:-1], self.num_outputs
        )
        return product if bias is None else product + bias

    def lookup(self, ids: Tensor) -> Tensor:
        """Look up the rows [T, inputs] of an 8-bit matrix for int64 [T]."""
        assert self._bits == 8, "rows of packed codes cannot be read"
        codes = self._codes.index_select(0, ids)[:, : self.num_inputs]
        return codes.to(self._scales.dtype) * self._scales.index_select(0, ids)

    def _multiply_rows(self, rows: Tensor) -> Tensor:
        if self._packed is not None:
            assert self._scales_and_zeros is not None
            product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
                rows, self._packed, self._format.group_size, self._scales_and_zeros
            )
            return product
        if len(rows) > _MAX_BYTE_ROWS:
            return functional.linear(rows, self._codes.to(rows.dtype) * self._scales)
        return torch._weight_int8pack_mm(rows, self._codes, self._scales.squeeze(-1))

    def _padded_columns(self, x: Tensor) -> Tensor:
        missing = self._padded_inputs - self.num_inputs
        return functional.pad(x, (0, missing)) if missing else x

    def _take(self, parameter: str, quantized: QuantizedTensor) -> None:
        rows = slice(self._starts[parameter], self._starts[parameter] + self._rows[parameter])
        self._codes[rows] = quantized.integers.flatten(1)
        self._scales[rows] = quantized.scales.to(self._scales.dtype)

    def _pack(self) -> None:
        codes = self._codes.to(torch.int32) + self._format.zero
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        scales = self._scales.t()
        self._scales_and_zeros = torch.stack([scales, torch.zeros_like(scales)], -1).contiguous()
        self._codes = self._scales = torch.empty(0)


def _padded(size: int) -> int:
    return -(-size // _MULTIPLE) * _MULTIPLE
