"""Checkpoints in the layout of the Marlin kernel (arXiv 2408.11743), as AutoGPTQ and GPTQModel
write them with `is_marlin_format` or `checkpoint_format: marlin`.

A weight [outputs, inputs] has 4 bits, and the code 8 represents 0. It is stored as:

* `B` int32 [inputs / 16, outputs * 2]: tiles of 16 inputs x 64 outputs, permuted by `_permutation`.
* `s` [groups, outputs]: the scales, permuted within each 64 outputs, or within each 32 outputs if
  there is only one group.
* `workspace` int32: memory of the kernel, which contains no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Final, final

import numpy as np
import numpy.typing as npt

from tgi.architectures.checkpoint import StoredTensor
from tgi.checkpoints.parts import (
    SCALE_KINDS,
    check_part,
    float_values,
    groups_text,
    modules_with,
    num_groups,
    parts_of,
    unpack_bits,
    weight_name,
)
from tgi.checkpoints.quantized import CodeKind, QuantizedFormat, QuantizedMatrix
from tgi.checkpoints.quantized_tensor import CheckpointFormat, QuantizedTensor, Read
from tgi.checkpoints.settings import Settings
from tgi.errors import ModelError

__all__ = ["MarlinFormat", "read"]

_BITS = 4
_TILE = 16  # inputs and outputs of a tile
_CHUNK_OUTPUTS = 64  # outputs of 4 tiles, which are permuted together
_VERSIONS = ("gptq", "marlin")
_NIBBLES = (0, 2, 4, 6, 1, 3, 5, 7)
_GROUP_SCALES: Final = np.arange(64).reshape(8, 8).T.ravel()
_ROW_SCALES: Final = np.array([2 * i + j for i in range(4) for j in (0, 1, 8, 9, 16, 17, 24, 25)])


@final
@dataclass(frozen=True)
class MarlinFormat:
    """The settings of a Marlin checkpoint."""

    group_size: int | None  # None = all inputs
    exceptions: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The value of `--quantize`."""
        return "marlin"

    @property
    def description(self) -> str:
        """One line for tables and logs."""
        return f"Marlin, 4 bits, {groups_text(self.group_size)}"

    def tensors(
        self, stored: Mapping[str, StoredTensor], read: Read
    ) -> Mapping[str, QuantizedTensor]:
        """Find the quantized weights. See `CheckpointFormat.tensors`."""
        found = (self._tensor(stored, module) for module in modules_with(stored, "B", "workspace"))
        return {tensor.name: tensor for tensor in found}

    def _tensor(self, stored: Mapping[str, StoredTensor], module: str) -> QuantizedTensor:
        parts = parts_of(stored, module, ("B", "s"), self.exceptions)
        if f"{module}.workspace" in stored:
            parts["workspace"] = stored[f"{module}.workspace"]
        codes = parts["B"]
        if len(codes.shape) != 2 or codes.shape[1] % (2 * _CHUNK_OUTPUTS):
            raise ModelError(
                f"The tensor `{codes.name}` has shape {list(codes.shape)}, but the layout of Marlin"
                f" requires a matrix with a multiple of {2 * _CHUNK_OUTPUTS} columns.",
                "The checkpoint is damaged.",
            )
        inputs, outputs = codes.shape[0] * _TILE, codes.shape[1] // 2
        groups = num_groups(inputs, self.group_size)
        check_part(codes, codes.shape, ("I32", "U32"))
        check_part(parts["s"], (groups, outputs), ("F16", "BF16"), codes)
        form = QuantizedFormat(
            CodeKind.INTEGER,
            _BITS,
            self.group_size,
            scale_kind=SCALE_KINDS[parts["s"].dtype],
            zero=1 << (_BITS - 1),
        )
        return QuantizedTensor(
            weight_name(module),
            (outputs, inputs),
            form,
            parts,
            partial(_decode, form, parts),
            row_multiple=_CHUNK_OUTPUTS,
        )


def read(settings: Settings) -> CheckpointFormat:
    """Read the settings of Marlin. Raises `ModelError`."""
    settings.text("checkpoint_format", default="marlin", allowed=_VERSIONS)
    settings.integer("bits", default=_BITS, allowed=(_BITS,))
    group = settings.integer("group_size", default=-1, allowed=(-1, 128))
    return MarlinFormat(None if group == -1 else group, settings.texts("modules_to_not_convert"))


def _decode(
    form: QuantizedFormat,
    parts: Mapping[str, StoredTensor],
    read_part: Read,
    expert: int | None,
    rows: slice,
) -> QuantizedMatrix:
    """Decode some outputs. The weights of an expert are separate tensors, so `expert` is None."""
    assert expert is None, "each expert has its own tensors"
    packed = unpack_bits(read_part("B")[:, 2 * rows.start : 2 * rows.stop], _BITS)
    tiles = np.empty((packed.size // len(_permutation()), len(_permutation())), np.uint8)
    tiles[:, _permutation()] = packed.reshape(tiles.shape)
    # [tiles of inputs, tiles of outputs, inputs, outputs] -> [outputs, inputs]
    by_tile = tiles.reshape(len(packed), -1, _TILE, _TILE)
    codes = by_tile.transpose(1, 3, 0, 2).reshape(-1, len(packed) * _TILE)
    stored = float_values(read_part("s")[:, rows], parts["s"].dtype)
    order = _ROW_SCALES if len(stored) == 1 else _GROUP_SCALES
    scales = np.empty((stored.size // len(order), len(order)), np.float32)
    scales[:, order] = stored.reshape(scales.shape)
    return QuantizedMatrix(
        form,
        np.ascontiguousarray(codes),
        np.ascontiguousarray(scales.reshape(stored.shape).T),
    )


@cache
def _permutation() -> npt.NDArray[np.int64]:
    """Return the index in four tiles [4, 16 inputs, 16 outputs] of each of the 1024 stored codes.

    A thread of the kernel reads 8 codes of one tile: two columns of outputs, and four inputs of
    each. Within a word, the even codes are stored first.
    """
    places = []
    for thread in range(32):
        row, column = 2 * (thread % 4), thread // 4
        own = [_TILE * (row + extra) + column + half for half in (0, 8) for extra in (0, 1, 8, 9)]
        for tile in range(4):
            places += [[own[nibble] + tile * _TILE * _TILE for nibble in _NIBBLES]]
    return np.array(places).ravel()
