"""The format `eetq`: int8 with one scale per output. Sources: transformers, `integrations/eetq.py`,
and the weight layout of EETQ's matrix product, which is that of FasterTransformer's mixed GEMM for
compute capability 7.5 and later.
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
    SIGN_BIT,
    check_not_excluded,
    checked_part,
    numbers,
    row_range,
)
from tgi.checkpoints.parts import SCALE_KINDS, modules_with
from tgi.checkpoints.quantized import CodeKind, QuantizedFormat, QuantizedMatrix
from tgi.checkpoints.quantized_tensor import Array, CheckpointFormat, QuantizedTensor, Read
from tgi.checkpoints.settings import Settings
from tgi.errors import ModelError

__all__ = ["read"]

_SCALES = "weight_scales"
_TILE = 64  # inputs that are adjacent in memory
_PAIR = 2  # outputs whose tiles alternate in memory
_PERMUTED = 16  # inputs that are permuted among themselves
_POSITIONS = np.array([0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15])
"""Position `i` of 16 permuted inputs contains input `_POSITIONS[i]`."""
_SWAPPED = (0, 2, 1, 3)  # the order of four adjacent bytes


def read(settings: Settings) -> CheckpointFormat:
    """Read the settings of `quant_method` `eetq`. Raises `ModelError`."""
    return _Eetq(settings.texts("modules_to_not_convert"), settings.place)


@final
@dataclass(frozen=True)
class _Eetq:
    excluded: tuple[str, ...]
    place: str

    @property
    def name(self) -> str:
        return "eetq"

    @property
    def description(self) -> str:
        return "EETQ, int8 per output"

    def tensors(
        self,
        stored: Mapping[str, StoredTensor],
        read: Read,
    ) -> Mapping[str, QuantizedTensor]:
        tensors = [self._tensor(stored, module) for module in modules_with(stored, _SCALES)]
        return {tensor.name: tensor for tensor in tensors}

    def _tensor(self, stored: Mapping[str, StoredTensor], module: str) -> QuantizedTensor:
        name = f"{module}.weight"
        check_not_excluded(name, self.excluded, self.place)
        weight = checked_part(stored, name, ("I8",))
        shape = weight.shape
        if len(shape) != 2 or shape[0] % _TILE or shape[1] % _PAIR:
            raise ModelError(
                f"The tensor `{name}` has shape {list(shape)}, but EETQ requires [inputs, outputs],"
                f" with a multiple of {_TILE} inputs and a multiple of {_PAIR} outputs."
            )
        inputs, outputs = shape
        scales = checked_part(
            stored, f"{module}.{_SCALES}", FLOATS, (outputs,), (outputs, 1), (1, outputs)
        )
        form = QuantizedFormat(
            CodeKind.INTEGER, 8, None, scale_kind=SCALE_KINDS[scales.dtype], zero=SIGN_BIT
        )

        def decode(read: Read, expert: int | None, rows: slice) -> QuantizedMatrix:
            codes = _rows_of_tiles(read("weight"), rows)
            factors = numbers(read("scales").reshape(outputs, 1)[rows], scales.dtype)
            return QuantizedMatrix(form, codes, factors)

        parts = {"weight": weight, "scales": scales}
        return QuantizedTensor(name, (outputs, inputs), form, parts, decode, row_multiple=_PAIR)


def _rows_of_tiles(weight: Array, rows: slice) -> npt.NDArray[np.uint8]:
    """Return the codes [outputs, inputs] of some outputs. In memory, tiles of 64 inputs of two
    outputs alternate, four adjacent bytes have the order 0, 2, 1, 3, and the codes are unsigned.
    """
    inputs, outputs = weight.shape
    first, stop = row_range(rows, outputs)
    pairs = weight.reshape(outputs // _PAIR, -1)[first // _PAIR : stop // _PAIR].view(np.uint8)
    ordered = pairs.reshape(-1, 4)[:, _SWAPPED]
    tiles = ordered.reshape(len(pairs), inputs // _TILE, _PAIR, _TILE).swapaxes(1, 2)
    permuted = tiles.reshape(stop - first, inputs // _PERMUTED, _PERMUTED)
    codes = np.empty_like(permuted)
    codes[..., _POSITIONS] = permuted
    return codes.reshape(stop - first, inputs)
