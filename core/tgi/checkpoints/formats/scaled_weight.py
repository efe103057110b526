"""Decodes weights that are stored with one code per byte and a separate tensor of scales: int8 and
fp8, with one scale per matrix, output, group or block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import numpy as np

from tgi.architectures.checkpoint import StoredTensor
from tgi.checkpoints.formats.stored_parts import (
    SIGN_BIT,
    numbers,
    one_expert,
    powers_of_two,
    row_range,
)
from tgi.checkpoints.parts import SCALE_KINDS
from tgi.checkpoints.quantized import (
    Activation,
    CodeKind,
    QuantizedFormat,
    QuantizedMatrix,
    ScaleKind,
)
from tgi.checkpoints.quantized_tensor import Array, QuantizedTensor, Read
from tgi.errors import ModelError

__all__ = ["CODE_KINDS", "ScaledWeight"]

CODE_KINDS: Mapping[str, CodeKind] = {
    "I8": CodeKind.INTEGER,
    "F8_E4M3": CodeKind.E4M3,
    "F8_E5M2": CodeKind.E5M2,
}
"""The stored dtypes of the codes."""


@final
@dataclass(frozen=True)
class ScaledWeight:
    """A weight [outputs, inputs] or [experts, outputs, inputs], and its scales.

    With `blocks`, each block of outputs x inputs has one scale, and blocks at the ends may be
    incomplete; (1, n) means groups of n inputs. Without `blocks`, the shape of the scales decides
    between one scale per output and one scale per matrix. Scales [experts, 1, outputs] belong to a
    weight that is stored as [experts, inputs, outputs].
    """

    name: str
    weight: StoredTensor
    scale: StoredTensor
    blocks: tuple[int, int] | None = None
    zero_point: StoredTensor | None = None  # I8, in the shape of the scales
    activation: Activation = Activation.NONE
    exponent_scales: bool = False  # U8 scales are E8M0 codes
    others: Mapping[str, StoredTensor] = field(default_factory=dict)

    def tensor(self) -> QuantizedTensor:
        """Return the quantized tensor. Raises `ModelError` if a shape is wrong."""
        if len(self.weight.shape) not in (2, 3):
            raise ModelError(
                f"The tensor `{self.weight.name}` has shape {list(self.weight.shape)}, but a"
                " quantized weight requires two dimensions, or three with experts."
            )
        group_outputs, group_inputs = self._groups()
        kind = CODE_KINDS[self.weight.dtype]
        is_integer = kind is CodeKind.INTEGER
        parts = {"weight": self.weight, "scale": self.scale, **self.others}
        if self.zero_point is not None:
            self._check_zero_point(self.zero_point)
            parts["zero_point"] = self.zero_point
        form = QuantizedFormat(
            kind,
            8,
            group_inputs,
            group_outputs,
            ScaleKind.E8M0 if self.exponent_scales else SCALE_KINDS[self.scale.dtype],
            zero=SIGN_BIT if is_integer else 0,
            has_zeros=self.zero_point is not None,
            activation=self.activation,
        )

        def decode(read: Read, expert: int | None, rows: slice) -> QuantizedMatrix:
            return self._decode(form, read, expert, rows)

        return QuantizedTensor(self.name, self.shape, form, parts, decode)

    @property
    def is_transposed(self) -> bool:
        """Whether the weight is stored as [experts, inputs, outputs]."""
        if len(self.weight.shape) != 3:
            return False
        experts, _, last = self.weight.shape
        return self.blocks is None and last > 1 and self.scale.shape == (experts, 1, last)

    @property
    def shape(self) -> tuple[int, ...]:
        """[outputs, inputs] or [experts, outputs, inputs]."""
        shape = self.weight.shape
        return (shape[0], shape[2], shape[1]) if self.is_transposed else shape

    def _groups(self) -> tuple[int, int | None]:
        """Return `group_outputs` and `group_inputs` of the format."""
        experts, (outputs, inputs) = self.shape[:-2], self.shape[-2:]
        if self.blocks is None:
            layouts: dict[tuple[int, int], tuple[int, int | None]] = {
                (outputs, 1): (1, None),
                (1, 1): (0, None),
            }
        else:
            rows, columns = self.blocks
            count = (-(-outputs // rows), -(-inputs // columns))
            layouts = {count: (rows, columns)}
        for layout, groups in layouts.items():
            if _without_ones(self.scale.shape) == _without_ones((*experts, *layout)):
                return groups
        expected = " or ".join(str([*experts, *layout]) for layout in layouts)
        raise ModelError(
            f"The tensor `{self.scale.name}` has shape {list(self.scale.shape)}, but the scales of"
            f" a weight {list(self.weight.shape)} require {expected}.",
            "Download the checkpoint again, or check `quantization_config` in config.json.",
        )

    def _check_zero_point(self, zero_point: StoredTensor) -> None:
        if _without_ones(zero_point.shape) != _without_ones(self.scale.shape):
            raise ModelError(
                f"The tensor `{zero_point.name}` has shape {list(zero_point.shape)}, but the zeros"
                f" require the shape {list(self.scale.shape)} of the scales."
            )

    def _decode(
        self, form: QuantizedFormat, read: Read, expert: int | None, rows: slice
    ) -> QuantizedMatrix:
        stored = one_expert(read("weight"), expert)
        codes = (stored.T if self.is_transposed else stored)[rows].view(np.uint8)
        scales = self._of_rows(read("scale"), expert, rows, form)
        zeros = None
        if self.zero_point is not None:
            points = self._of_rows(read("zero_point"), expert, rows, form)
            zeros = points.view(np.uint8) ^ np.uint8(SIGN_BIT)
        if form.kind is CodeKind.INTEGER:
            codes = codes ^ np.uint8(SIGN_BIT)
        factors = (
            powers_of_two(scales) if self.exponent_scales else numbers(scales, self.scale.dtype)
        )
        return QuantizedMatrix(form, np.ascontiguousarray(codes), factors, zeros)

    def _of_rows(
        self, values: Array, expert: int | None, rows: slice, form: QuantizedFormat
    ) -> Array:
        """Return the values of some outputs, [outputs, groups], from a tensor of scales."""
        outputs, inputs = self.shape[-2:]
        table = values.reshape(*self.shape[:-2], -1, form.num_groups(inputs))
        first, stop = row_range(rows, outputs)
        index = np.arange(first, stop) // (form.group_outputs or outputs)
        return np.ascontiguousarray(one_expert(table, expert)[index])


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
