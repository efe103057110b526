"""Decodes 4-bit weights of bitsandbytes, whose blocks divide the flattened matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, final

import msgspec
import numpy as np
import numpy.typing as npt

from tgi.architectures.checkpoint import StoredTensor
from tgi.checkpoints.formats.stored_parts import numbers, row_range
from tgi.checkpoints.quantized import CodeKind, QuantizedFormat, QuantizedMatrix, code_values
from tgi.checkpoints.quantized_tensor import Array, QuantizedTensor, Read
from tgi.errors import ModelError

__all__ = ["BlockState", "FourBitWeight"]

_KINDS = {"nf4": CodeKind.NF4, "fp4": CodeKind.FP4}
_TABLE_TOLERANCE = 1e-4


class _StoredState(msgspec.Struct):
    quant_type: str
    blocksize: int
    shape: tuple[int, int]
    nested_blocksize: int = 256
    nested_offset: float = 0.0


@final
@dataclass(frozen=True)
class BlockState:
    """The settings of one weight, which the checkpoint stores as JSON."""

    kind: CodeKind
    block_size: int  # weights that share a scale
    shape: tuple[int, int]  # [outputs, inputs]
    nested_block_size: int  # scales that share a second scale
    nested_offset: float  # added to each scale that is stored as a code

    @classmethod
    def parse(cls, name: str, text: bytes) -> Self:
        """Read the JSON of the tensor `name`. Raises `ModelError`."""
        try:
            state = msgspec.json.decode(text, type=_StoredState)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ModelError(
                f"The tensor `{name}` cannot be parsed as JSON: {error}.",
                "Download the checkpoint again.",
            ) from error
        sizes = (state.blocksize, state.nested_blocksize, *state.shape)
        if state.quant_type not in _KINDS or min(sizes) < 1:
            raise ModelError(
                f"The tensor `{name}` contains the type `{state.quant_type}` and the sizes"
                f" {list(sizes)}, but the type must be {' or '.join(_KINDS)} and each size must be"
                " at least 1.",
                "Download the checkpoint again.",
            )
        return cls(
            _KINDS[state.quant_type],
            state.blocksize,
            state.shape,
            state.nested_blocksize,
            state.nested_offset,
        )


@final
@dataclass(frozen=True)
class FourBitWeight:
    """A matrix whose codes are stored one row after another. Of two codes in a byte, the first code
    has the higher bits.

    A block may begin within a row, and may contain the end of one row and the start of the next
    row. The groups of the canonical form are the largest groups that divide both blocks and rows.
    """

    name: str
    state: BlockState
    parts: Mapping[str, StoredTensor]

    def tensor(self, table: Array) -> QuantizedTensor:
        """Return the quantized tensor. `table` is the stored `quant_map`. Raises `ModelError` if
        the table differs from the fixed table of the kind, which the kernels use.
        """
        expected = code_values(self.state.kind, 4)
        if not np.allclose(table, expected, rtol=0, atol=_TABLE_TOLERANCE):
            raise ModelError(
                f"The tensor `{self.parts['quant_map'].name}` is not the table of"
                f" {self.state.kind.value}: its first numbers are"
                f" {[float(number) for number in table[:3]]}, but the numbers"
                f" {[float(number) for number in expected[:3]]} are required.",
                "Save the model again with a current version of bitsandbytes.",
            )
        inputs = self.state.shape[1]
        form = QuantizedFormat(self.state.kind, 4, math.gcd(inputs, self.state.block_size))

        def decode(read: Read, expert: int | None, rows: slice) -> QuantizedMatrix:
            first, stop = row_range(rows, self.state.shape[0])
            return QuantizedMatrix(
                form, self._codes(read, first, stop), self._scales(read, first, stop, form)
            )

        return QuantizedTensor(self.name, self.state.shape, form, self.parts, decode)

    def _codes(self, read: Read, first: int, stop: int) -> npt.NDArray[np.uint8]:
        inputs = self.state.shape[1]
        start, end = first * inputs, stop * inputs
        stored = np.ascontiguousarray(read("weight")).reshape(-1).view(np.uint8)
        packed = stored[start // 2 : -(-end // 2)]
        pairs = np.stack([packed >> np.uint8(4), packed & np.uint8(0x0F)], axis=-1).reshape(-1)
        skipped = start % 2
        return pairs[skipped : skipped + end - start].reshape(stop - first, inputs)

    def _scales(
        self, read: Read, first: int, stop: int, form: QuantizedFormat
    ) -> npt.NDArray[np.float32]:
        """Return the scales [outputs, groups] of some outputs."""
        inputs = self.state.shape[1]
        group = form.group_inputs or inputs
        starts = np.arange(first * inputs, stop * inputs, group)
        blocks = starts // self.state.block_size
        scales = read("absmax")[blocks]
        if "nested_absmax" in self.parts:
            factors = read("nested_absmax")[blocks // self.state.nested_block_size]
            offset = np.float32(self.state.nested_offset)
            scales = read("nested_quant_map")[scales] * factors + offset
        return numbers(scales, "F32").reshape(stop - first, inputs // group)
