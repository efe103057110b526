"""The format `exl2`: integers of 2 to 8 bits, with different bits for different groups of inputs.
Source: exllamav2, `conversion/adaptivegptq.py` and the kernel `pack_columns`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from tgi.architectures.checkpoint import StoredTensor
from tgi.checkpoints.formats.stored_parts import (
    checked_part,
    numbers,
    optional_parts,
    row_range,
    unpack_words,
)
from tgi.checkpoints.parts import modules_with
from tgi.checkpoints.quantized import CodeKind, QuantizedFormat, QuantizedMatrix
from tgi.checkpoints.quantized_tensor import Array, CheckpointFormat, QuantizedTensor, Read
from tgi.checkpoints.settings import Settings
from tgi.errors import ModelError

__all__ = ["read"]

_WEIGHT = "q_weight"
_WORD_BITS = 32
_ALLOWED_BITS = (2, 3, 4, 5, 6, 8)
_SCALES_PER_WORD = 8
_MAX_SCALE_DIVISOR = 256  # the square of the largest stored factor, 16


def read(settings: Settings) -> CheckpointFormat:
    """Return the format of `quant_method` `exl2`. The tensors contain all settings."""
    return _Exl2()


@final
@dataclass(frozen=True)
class _Group:
    """Inputs that share scales. Their codes begin in row `start` of the packed weight."""

    bits: int
    start: int
    num_words: int  # rows of the packed weight
    num_inputs: int


@final
@dataclass(frozen=True)
class _Exl2:
    @property
    def name(self) -> str:
        return "exl2"

    @property
    def description(self) -> str:
        return "EXL2, integers with different bits per group"

    def tensors(
        self, stored: Mapping[str, StoredTensor], read: Read
    ) -> Mapping[str, QuantizedTensor]:
        tensors = [_tensor(stored, module, read) for module in modules_with(stored, _WEIGHT)]
        return {tensor.name: tensor for tensor in tensors}


def _tensor(stored: Mapping[str, StoredTensor], module: str, read: Read) -> QuantizedTensor:
    """Build a weight from five tensors. The packed weight [words, outputs] and the scales
    [groups, outputs / 8] contain unsigned integers, the lowest bits first.
    """
    weight = checked_part(stored, f"{module}.{_WEIGHT}", ("I32",))
    inverse = checked_part(stored, f"{module}.q_invperm", ("I32", "I16"))
    groups = checked_part(stored, f"{module}.q_groups", ("I16",))
    num_groups = math.prod(groups.shape) // 2
    if len(weight.shape) != 2 or weight.shape[1] % _SCALES_PER_WORD or num_groups < 1:
        raise ModelError(
            f"The tensor `{weight.name}` has shape {list(weight.shape)} and {num_groups} groups,"
            " but EXL2 requires [words, outputs], a multiple of"
            f" {_SCALES_PER_WORD} outputs, and at least one group."
        )
    words, outputs = weight.shape
    inputs = math.prod(inverse.shape)
    scales = checked_part(
        stored, f"{module}.q_scale", ("I32",), (num_groups, outputs // _SCALES_PER_WORD)
    )
    largest = checked_part(stored, f"{module}.q_scale_max", ("F16",), (num_groups,))
    layout = _layout(groups.name, read(groups.name), words, inputs)
    unit = math.gcd(*(group.num_inputs for group in layout[:-1])) or inputs
    bits = max(group.bits for group in layout)
    form = QuantizedFormat(CodeKind.INTEGER, bits, unit, zero=1 << (bits - 1), has_input_order=True)

    def decode(read: Read, expert: int | None, rows: slice) -> QuantizedMatrix:
        packed = read("q_weight")[:, rows]
        return QuantizedMatrix(
            form,
            np.concatenate([_codes(packed, group, bits) for group in layout], axis=1),
            _scales(read("q_scale"), read("q_scale_max"), rows, layout, unit),
            input_order=_order(inverse.name, read("q_invperm")),
        )

    parts = {
        "q_weight": weight,
        "q_scale": scales,
        "q_scale_max": largest,
        "q_groups": groups,
        "q_invperm": inverse,
        **optional_parts(stored, module, ("q_perm", "q_group_map")),
    }
    return QuantizedTensor(
        f"{module}.weight", (outputs, inputs), form, parts, decode, row_multiple=_SCALES_PER_WORD
    )


def _layout(name: str, groups: Array, num_words: int, num_inputs: int) -> tuple[_Group, ...]:
    """Return the groups of a weight from pairs of bits and first row. Raises `ModelError` if the
    groups do not cover all words and inputs.
    """
    pairs = [(int(bits), int(start)) for bits, start in groups.reshape(-1, 2)]
    ends = [start for _, start in pairs[1:]] + [num_words]
    layout: list[_Group] = []
    remaining = num_inputs
    for (bits, start), end in zip(pairs, ends, strict=True):
        words = end - start
        if bits not in _ALLOWED_BITS or words < 1 or (not layout and start != 0):
            raise _bad_groups(name, pairs, num_words, num_inputs)
        is_last = len(layout) == len(pairs) - 1
        inputs = remaining if is_last else words * _WORD_BITS // bits
        remaining -= inputs
        if inputs < 1 or remaining < 0 or -(-inputs * bits // _WORD_BITS) != words:
            raise _bad_groups(name, pairs, num_words, num_inputs)
        layout.append(_Group(bits, start, words, inputs))
    return tuple(layout)


def _bad_groups(
    name: str, pairs: list[tuple[int, int]], num_words: int, num_inputs: int
) -> ModelError:
    return ModelError(
        f"The tensor `{name}` contains groups of (bits, first row) {pairs[:4]}, which do not cover"
        f" {num_words} rows of packed integers and {num_inputs} inputs.",
        "Download the checkpoint again.",
    )


def _codes(packed: Array, group: _Group, bits: int) -> npt.NDArray[np.uint8]:
    """Return the codes [outputs, inputs] of a group. A constant is added to codes of fewer bits, so
    that all codes have the same zero. The numbers that the codes represent do not change.
    """
    words = packed[group.start : group.start + group.num_words].T
    codes = unpack_words(words, group.bits, group.num_inputs)
    return codes + np.uint8((1 << (bits - 1)) - (1 << (group.bits - 1)))


def _scales(
    packed: Array, largest: Array, rows: slice, layout: tuple[_Group, ...], unit: int
) -> npt.NDArray[np.float32]:
    """Return the scales [outputs, inputs / unit]. A scale is `(factor + 1) ** 2 / 256` times the
    largest scale of its group.
    """
    first, stop = row_range(rows, packed.shape[1] * _SCALES_PER_WORD)
    words = packed[:, first // _SCALES_PER_WORD : stop // _SCALES_PER_WORD]
    factors = unpack_words(words, 4, stop - first).astype(np.float32) + 1
    maxima = numbers(largest, "F16") / np.float32(_MAX_SCALE_DIVISOR)
    scales = (factors * factors * maxima[:, None]).T
    repeats = [-(-group.num_inputs // unit) for group in layout]
    return np.ascontiguousarray(np.repeat(scales, repeats, axis=1))


def _order(name: str, inverse: Array) -> npt.NDArray[np.int32]:
    """Return the input of each position. `inverse` contains the position of each input."""
    positions = inverse.astype(np.int64)
    if not np.array_equal(np.sort(positions), np.arange(len(positions))):
        raise ModelError(
            f"The tensor `{name}` must contain each position of {len(positions)} inputs once.",
            "Download the checkpoint again.",
        )
    return np.argsort(positions).astype(np.int32)
