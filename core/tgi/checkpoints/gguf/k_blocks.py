"""Decodes blocks of 256 weights with two levels of scales: Q2_K, Q3_K, Q4_K, Q5_K and Q6_K.

Each group of 16 or 32 weights has an integer scale, which is multiplied by the block's scale d.
Some types also have an integer minimum per group, which is multiplied by the block's `dmin`. A
weight is scale * code - minimum, or scale * (code - zero).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tgi.checkpoints.gguf.block_parts import BlockParts, Bytes, float16_column, shifted

__all__ = ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k"]

_Floats = npt.NDArray[np.float32]
_HALF = 32  # bytes that contain one field of two bits, or two nibbles, for each of 32 weights


def q2_k(blocks: Bytes) -> BlockParts:
    """Decode blocks of scales and minimums (16 bytes), codes (64), d (2) and dmin (2)."""
    packed = blocks[:, :16]
    scales = float16_column(blocks, 80) * (packed & 0x0F).astype(np.float32)
    minimums = float16_column(blocks, 82) * (packed >> 4).astype(np.float32)
    return BlockParts(_fields(blocks[:, 16:80], 2), scales, -minimums)


def q3_k(blocks: Bytes) -> BlockParts:
    """Decode blocks of third bits (32 bytes), low bits (64), scales (12) and d (2)."""
    high = shifted(blocks[:, :32], 1)  # [8, blocks, 32]
    codes = _fields(blocks[:, 32:96], 2) | (_by_block(high) << np.uint8(2))
    packed = blocks[:, 96:108]
    low_scales = np.concatenate([packed[:, :8] & 0x0F, packed[:, :8] >> 4], axis=1)
    high_scales = _by_block(shifted(packed[:, 8:], 2))
    integers = (low_scales | (high_scales << np.uint8(4))).astype(np.float32) - 32
    return BlockParts(codes, float16_column(blocks, 108) * integers)


def q4_k(blocks: Bytes) -> BlockParts:
    """Decode blocks of d (2 bytes), dmin (2), scales and minimums (12) and codes (128)."""
    return BlockParts(_fields(blocks[:, 16:144], 4), *_scales_and_offsets(blocks))


def q5_k(blocks: Bytes) -> BlockParts:
    """Decode blocks of d (2 bytes), dmin (2), scales and minimums (12), fifth bits (32) and low
    bits (128).
    """
    high = shifted(blocks[:, 16:48], 1)  # [8, blocks, 32]
    codes = _fields(blocks[:, 48:176], 4) | (_by_block(high) << np.uint8(4))
    return BlockParts(codes, *_scales_and_offsets(blocks))


def q6_k(blocks: Bytes) -> BlockParts:
    """Decode blocks of low bits (128 bytes), high bits (64), signed scales (16) and d (2)."""
    num_blocks = len(blocks)
    # 64 bytes contain the low bits of 128 weights: first the low halves, then the high halves.
    low = np.moveaxis(shifted(blocks[:, :128].reshape(num_blocks, 2, 64), 4), 0, 2)
    codes = low.reshape(num_blocks, 256) | (_fields(blocks[:, 128:192], 2) << np.uint8(4))
    integers = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    return BlockParts(codes, float16_column(blocks, 208) * integers)


def _fields(packed: Bytes, bits: int) -> Bytes:
    """Unpack fields of `bits` bits. Each 32 bytes contain first the lowest fields of all bytes,
    then the next ones, and so on. Returns [blocks, fields].
    """
    parts = shifted(packed.reshape(len(packed), -1, _HALF), bits)
    return np.moveaxis(parts, 0, 2).reshape(len(packed), -1)


def _by_block(fields: Bytes) -> Bytes:
    """Change [fields of a byte, blocks, bytes] to [blocks, fields x bytes]."""
    return np.moveaxis(fields, 0, 1).reshape(fields.shape[1], -1)


def _scales_and_offsets(blocks: Bytes) -> tuple[_Floats, _Floats]:
    """Return the scales and the negative minimums of the 8 groups, float32 [blocks, 8].

    Bytes 0 to 3 contain the scales of the first four groups in 6 bits, and bytes 4 to 7 contain
    their minimums. Bytes 8 to 11 contain the low four bits of the other groups: the scale in the
    low half, the minimum in the high half. Their two high bits are the high bits of bytes 0 to 7.
    """
    first, second, low = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate([first & 0x3F, (low & 0x0F) | ((first >> 2) & 0x30)], axis=1)
    minimums = np.concatenate([second & 0x3F, (low >> 4) | ((second >> 2) & 0x30)], axis=1)
    return (
        float16_column(blocks, 0) * scales.astype(np.float32),
        -(float16_column(blocks, 2) * minimums.astype(np.float32)),
    )
