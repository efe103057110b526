"""Decodes blocks of 32 weights: Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0.

A block begins with a scale d in float16. Types whose name ends with 1 then have a minimum m in
float16, and a weight is d * code + m. Otherwise a weight is d * (code - zero).
"""

from __future__ import annotations

import numpy as np

from tgi.checkpoints.gguf.block_parts import BlockParts, Bytes, float16_column, shifted

__all__ = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"]

_SIGN = np.uint8(0x80)


def q4_0(blocks: Bytes) -> BlockParts:
    """Decode blocks of scale (2 bytes) and codes (16)."""
    return BlockParts(_nibbles(blocks[:, 2:18]), float16_column(blocks, 0))


def q4_1(blocks: Bytes) -> BlockParts:
    """Decode blocks of scale (2 bytes), minimum (2) and codes (16)."""
    codes = _nibbles(blocks[:, 4:20])
    return BlockParts(codes, float16_column(blocks, 0), float16_column(blocks, 2))


def q5_0(blocks: Bytes) -> BlockParts:
    """Decode blocks of scale (2 bytes), fifth bits (4) and low bits of the codes (16)."""
    codes = _nibbles(blocks[:, 6:22]) | _fifth_bits(blocks[:, 2:6])
    return BlockParts(codes, float16_column(blocks, 0))


def q5_1(blocks: Bytes) -> BlockParts:
    """Decode blocks of scale (2 bytes), minimum (2), fifth bits (4) and low bits (16)."""
    codes = _nibbles(blocks[:, 8:24]) | _fifth_bits(blocks[:, 4:8])
    return BlockParts(codes, float16_column(blocks, 0), float16_column(blocks, 2))


def q8_0(blocks: Bytes) -> BlockParts:
    """Decode blocks of scale (2 bytes) and signed codes (32). The canonical codes are unsigned."""
    return BlockParts(blocks[:, 2:34] ^ _SIGN, float16_column(blocks, 0))


def _nibbles(packed: Bytes) -> Bytes:
    """The low halves of the bytes are the first 16 codes, the high halves are the last 16."""
    return np.concatenate([packed & 0x0F, packed >> 4], axis=1)


def _fifth_bits(packed: Bytes) -> Bytes:
    """The bit of code `i` is bit `i` of a little-endian number of 32 bits."""
    return np.moveaxis(shifted(packed, 1), 0, -1).reshape(len(packed), -1) << np.uint8(4)
