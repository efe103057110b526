"""The types of tensors in GGUF files: their sizes, and the formats of quantized blocks.

A tensor is a sequence of rows, and a row is a sequence of blocks of the same size. The layouts of
the blocks are those of the structures `block_q4_0` and so on in ggml, `src/ggml-common.h`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

import numpy as np
import numpy.typing as npt

from tgi.checkpoints.gguf import k_blocks, simple_blocks
from tgi.checkpoints.gguf.block_parts import BlockParts
from tgi.checkpoints.quantized import CodeKind, QuantizedFormat, QuantizedMatrix, ScaleKind

__all__ = ["BLOCK_TYPES", "BlockType", "decode_rows"]

DecodeBlocks = Callable[[npt.NDArray[np.uint8]], BlockParts]
"""Decodes blocks [blocks, bytes of a block]."""


@final
@dataclass(frozen=True)
class BlockType:
    """A type of tensors. `float_dtype` is set for types that are not quantized, under the name of
    the dtype in safetensors files. Types with neither a float dtype nor a format cannot be read.
    """

    name: str
    num_values: int  # number of values in a block
    num_bytes: int  # size of a block
    float_dtype: str | None = None
    format: QuantizedFormat | None = None
    decode: DecodeBlocks | None = None


def _integers(
    bits: int, group: int, *, zero: int = 0, has_offsets: bool = False
) -> QuantizedFormat:
    return QuantizedFormat(
        CodeKind.INTEGER,
        bits,
        group,
        scale_kind=ScaleKind.F16,
        zero=zero,
        has_offsets=has_offsets,
    )


BLOCK_TYPES: Mapping[int, BlockType] = MappingProxyType(
    {
        0: BlockType("F32", 1, 4, "F32"),
        1: BlockType("F16", 1, 2, "F16"),
        2: BlockType("Q4_0", 32, 18, None, _integers(4, 32, zero=8), simple_blocks.q4_0),
        3: BlockType("Q4_1", 32, 20, None, _integers(4, 32, has_offsets=True), simple_blocks.q4_1),
        6: BlockType("Q5_0", 32, 22, None, _integers(5, 32, zero=16), simple_blocks.q5_0),
        7: BlockType("Q5_1", 32, 24, None, _integers(5, 32, has_offsets=True), simple_blocks.q5_1),
        8: BlockType("Q8_0", 32, 34, None, _integers(8, 32, zero=128), simple_blocks.q8_0),
        9: BlockType("Q8_1", 32, 40),
        10: BlockType("Q2_K", 256, 84, None, _integers(2, 16, has_offsets=True), k_blocks.q2_k),
        11: BlockType("Q3_K", 256, 110, None, _integers(3, 16, zero=4), k_blocks.q3_k),
        12: BlockType("Q4_K", 256, 144, None, _integers(4, 32, has_offsets=True), k_blocks.q4_k),
        13: BlockType("Q5_K", 256, 176, None, _integers(5, 32, has_offsets=True), k_blocks.q5_k),
        14: BlockType("Q6_K", 256, 210, None, _integers(6, 16, zero=32), k_blocks.q6_k),
        15: BlockType("Q8_K", 256, 292),
        16: BlockType("IQ2_XXS", 256, 66),
        17: BlockType("IQ2_XS", 256, 74),
        18: BlockType("IQ3_XXS", 256, 98),
        19: BlockType("IQ1_S", 256, 50),
        20: BlockType("IQ4_NL", 32, 18),
        21: BlockType("IQ3_S", 256, 110),
        22: BlockType("IQ2_S", 256, 82),
        23: BlockType("IQ4_XS", 256, 136),
        24: BlockType("I8", 1, 1),
        25: BlockType("I16", 1, 2),
        26: BlockType("I32", 1, 4),
        27: BlockType("I64", 1, 8),
        28: BlockType("F64", 1, 8, "F64"),
        29: BlockType("IQ1_M", 256, 56),
        30: BlockType("BF16", 1, 2, "BF16"),
        34: BlockType("TQ1_0", 256, 54),
        35: BlockType("TQ2_0", 256, 66),
        39: BlockType("MXFP4", 32, 17),
    }
)
"""The types by their number in the file (`enum ggml_type` in ggml, `include/ggml.h`)."""


def decode_rows(block_type: BlockType, data: npt.NDArray[np.uint8]) -> QuantizedMatrix:
    """Convert rows to the canonical form. `data` is [rows, bytes of a row], in whole blocks."""
    assert block_type.format is not None and block_type.decode is not None, block_type.name
    rows = len(data)
    parts = block_type.decode(data.reshape(-1, block_type.num_bytes))
    return QuantizedMatrix(
        block_type.format,
        codes=parts.codes.reshape(rows, -1),
        scales=parts.scales.reshape(rows, -1),
        offsets=None if parts.offsets is None else parts.offsets.reshape(rows, -1),
    )
