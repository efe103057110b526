"""The parts of quantized blocks of a GGUF file, and functions that unpack their bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

__all__ = ["BlockParts", "Bytes", "float16_column", "shifted"]

Bytes = npt.NDArray[np.uint8]


@final
@dataclass(frozen=True)
class BlockParts:
    """The content of blocks in the canonical form. The codes of a block are in the order of the
    weights.
    """

    codes: Bytes  # [blocks, values of a block]
    scales: npt.NDArray[np.float32]  # [blocks, groups of a block]
    offsets: npt.NDArray[np.float32] | None = None  # [blocks, groups of a block]


def float16_column(blocks: Bytes, start: int) -> npt.NDArray[np.float32]:
    """Return the float16 at byte `start` of each block as float32 [blocks, 1]."""
    column = np.ascontiguousarray(blocks[:, start : start + 2])
    return column.view("<f2").astype(np.float32)


def shifted(data: Bytes, bits: int) -> Bytes:
    """Split each byte into fields of `bits` bits. The lowest field is first.

    The result is [8 / bits, ...], where the other axes are those of `data`.
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8).reshape(-1, *(1,) * data.ndim)
    return (data[None] >> shifts) & np.uint8((1 << bits) - 1)
