"""Packs quantized weights as the tensors of a GPTQ checkpoint, version 1.

* `qweight` int32 [inputs * bits / 32, outputs]: the codes of an output, from the lowest bit on.
* `qzeros` int32 [groups, outputs * bits / 32]: the zeros of a group minus 1.
* `scales` float16 [groups, outputs].
* `g_idx` int32 [inputs]: the group of each input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tgi_torch.gptq.solver import QuantizedWeights

__all__ = ["can_pack", "pack_gptq", "packed_bytes"]

_WORD_BITS = 32
_CHUNK_ROWS = 256  # rows that are unpacked at once, with one byte per bit


def can_pack(outputs: int, inputs: int, bits: int) -> bool:
    """Whether the codes of all inputs, and the zeros of all outputs, fill whole words."""
    return inputs * bits % _WORD_BITS == 0 and outputs * bits % _WORD_BITS == 0


def packed_bytes(outputs: int, inputs: int, bits: int, group_size: int | None) -> int:
    """Return the size in bytes of the four tensors."""
    groups = -(-inputs // (group_size or inputs))
    return outputs * inputs * bits // 8 + groups * outputs * (16 + bits) // 8 + 4 * inputs


def pack_gptq(weights: QuantizedWeights, bits: int) -> Mapping[str, npt.NDArray[Any]]:
    """Return the tensors by the last part of their name."""
    zeros = (weights.zeros.numpy().T - np.uint8(1)) & np.uint8((1 << bits) - 1)
    return {
        "qweight": np.ascontiguousarray(_pack_rows(weights.codes.numpy(), bits).T),
        "qzeros": _pack_rows(np.ascontiguousarray(zeros), bits),
        "scales": np.ascontiguousarray(weights.scales.numpy().T),
        "g_idx": weights.groups.numpy(),
    }


def _pack_rows(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.int32]:
    """Pack the codes uint8 [rows, n] of each row into words int32 [rows, n * bits / 32]."""
    words = np.empty((len(codes), codes.shape[1] * bits // _WORD_BITS), np.int32)
    for start in range(0, len(codes), _CHUNK_ROWS):
        own = codes[start : start + _CHUNK_ROWS, :, None]
        separate = (own >> np.arange(bits, dtype=np.uint8)) & np.uint8(1)
        octets = np.packbits(separate.reshape(len(own), -1), axis=1, bitorder="little")
        words[start : start + len(own)] = octets.view("<i4")
    return words
