"""Decodes `pack-quantized` weights of compressed-tensors: unsigned integers in 32-bit words, scales
and packed zeros per group, and an optional group of each input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from tgi.architectures.checkpoint import StoredTensor
from tgi.checkpoints.formats.stored_parts import (
    FLOATS,
    checked_part,
    numbers,
    row_range,
    unpack_words,
)
from tgi.checkpoints.parts import SCALE_KINDS
from tgi.checkpoints.quantized import Activation, CodeKind, QuantizedFormat, QuantizedMatrix
from tgi.checkpoints.quantized_tensor import Array, QuantizedTensor, Read
from tgi.errors import ModelError

__all__ = ["PackedIntegers"]

_WORD_BITS = 32
_UNUSED = -1  # the value of all entries of an order that is not used


@final
@dataclass(frozen=True)
class PackedIntegers:
    """The packed codes of a matrix. Without `group_size`, all inputs of an output share a scale."""

    module: str
    packed: StoredTensor
    shape: tuple[int, int]  # [outputs, inputs]
    bits: int
    group_size: int | None
    activation: Activation

    def tensor(
        self,
        stored: Mapping[str, StoredTensor],
        read: Read,
        others: Mapping[str, StoredTensor],
        *,
        is_symmetric: bool,
    ) -> QuantizedTensor:
        """Return the quantized tensor. Raises `ModelError` if a part is missing or its shape is
        wrong.
        """
        outputs, inputs = self.shape
        groups = 1 if self.group_size is None else -(-inputs // self.group_size)
        shapes = ((outputs, groups),) if groups > 1 else ((outputs, 1), (outputs,), (1,), (1, 1))
        scale = checked_part(stored, f"{self.module}.weight_scale", FLOATS, *shapes)
        parts = {"packed": self.packed, "scale": scale, **others}
        if not is_symmetric:
            words = -(-outputs * self.bits // _WORD_BITS)
            parts["zero_point"] = checked_part(
                stored, f"{self.module}.weight_zero_point", ("I32",), (words, groups)
            )
        order = self._order(stored, read)
        if f"{self.module}.weight_g_idx" in stored:
            parts["g_idx"] = stored[f"{self.module}.weight_g_idx"]
        is_per_tensor = scale.shape in ((1,), (1, 1)) and outputs > 1
        form = QuantizedFormat(
            CodeKind.INTEGER,
            self.bits,
            self.group_size,
            0 if is_per_tensor else 1,
            SCALE_KINDS[scale.dtype],
            zero=1 << (self.bits - 1),
            has_zeros=not is_symmetric,
            has_input_order=order is not None,
            activation=self.activation,
        )

        def decode(read: Read, expert: int | None, rows: slice) -> QuantizedMatrix:
            codes = unpack_words(read("packed")[rows], self.bits, inputs)
            factors = numbers(read("scale"), scale.dtype).reshape(-1, groups)
            scales = np.broadcast_to(factors, (outputs, groups))[rows]
            return QuantizedMatrix(
                form,
                codes if order is None else codes[:, order],
                np.ascontiguousarray(scales),
                None if is_symmetric else self._zeros(read("zero_point"), rows),
                input_order=order,
            )

        multiple = 1 if is_symmetric else _WORD_BITS // self.bits
        return QuantizedTensor(
            f"{self.module}.weight", self.shape, form, parts, decode, row_multiple=multiple
        )

    def _zeros(self, packed: Array, rows: slice) -> npt.NDArray[np.uint8]:
        """Return the zeros [outputs, groups]. They are packed along the outputs."""
        first, stop = row_range(rows, self.shape[0])
        per_word = _WORD_BITS // self.bits
        words = packed[first // per_word : -(-stop // per_word)].T
        return np.ascontiguousarray(unpack_words(words, self.bits, stop - first).T)

    def _order(
        self, stored: Mapping[str, StoredTensor], read: Read
    ) -> npt.NDArray[np.int32] | None:
        """Return the input of each position, or None if the groups contain adjacent inputs.

        `weight_g_idx` contains the group of each input. Raises `ModelError` if a group has another
        number of inputs than `group_size`.
        """
        name, inputs = f"{self.module}.weight_g_idx", self.shape[1]
        if name not in stored:
            return None
        checked_part(stored, name, ("I32", "I64"), (inputs,))
        groups = read(name).astype(np.int64)
        expected = np.arange(inputs) // (self.group_size or inputs)
        if np.array_equal(groups, expected) or (groups == _UNUSED).all():
            return None
        order = np.argsort(groups, kind="stable")
        if not np.array_equal(groups[order], expected):
            raise ModelError(
                f"The tensor `{name}` must contain each group {self.group_size} times, once per"
                f" input of the group. Its first values are {groups[:8].tolist()}.",
                "Download the checkpoint again.",
            )
        return order.astype(np.int32)
