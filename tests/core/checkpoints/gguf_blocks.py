"""Decodes the blocks of GGUF files in plain loops, from the structures in ggml's `ggml-common.h`.

Every function returns the weights of one block in float32. All steps round as ggml does: a product
of the scale and the code, then a sum with the minimum.
"""

import struct

import numpy as np

F32 = np.float32


def half(block, at):
    """The float16 at a byte of the block."""
    return F32(struct.unpack_from("<e", block, at)[0])


def q4_0(block):
    scale, codes = half(block, 0), block[2:]
    low = [scale * F32((byte & 15) - 8) for byte in codes]
    return low + [scale * F32((byte >> 4) - 8) for byte in codes]


def q4_1(block):
    scale, least, codes = half(block, 0), half(block, 2), block[4:]
    low = [scale * F32(byte & 15) + least for byte in codes]
    return low + [scale * F32(byte >> 4) + least for byte in codes]


def fifth_bit(block, at, index):
    (bits,) = struct.unpack_from("<I", block, at)
    return ((bits >> index) & 1) << 4


def q5_0(block):
    scale, weights = half(block, 0), []
    for index in range(32):
        byte = block[6 + index % 16]
        code = (byte & 15 if index < 16 else byte >> 4) | fifth_bit(block, 2, index)
        weights.append(scale * F32(code - 16))
    return weights


def q5_1(block):
    scale, least, weights = half(block, 0), half(block, 2), []
    for index in range(32):
        byte = block[8 + index % 16]
        code = (byte & 15 if index < 16 else byte >> 4) | fifth_bit(block, 4, index)
        weights.append(scale * F32(code) + least)
    return weights


def q8_0(block):
    return [half(block, 0) * F32(code) for code in struct.unpack_from("<32b", block, 2)]


def q2_k(block):
    scale, least, weights = half(block, 80), half(block, 82), []
    for index in range(256):
        part, within = divmod(index, 128)
        byte = block[16 + 32 * part + within % 32]
        code = (byte >> (2 * (within // 32))) & 3
        packed = block[index // 16]
        weights.append(scale * F32(packed & 15) * F32(code) - least * F32(packed >> 4))
    return weights


def q3_k(block):
    scale, weights, packed = half(block, 108), [], block[96:108]
    for index in range(256):
        part, within = divmod(index, 128)
        low = (block[32 + 32 * part + within % 32] >> (2 * (within // 32))) & 3
        high = (block[within % 32] >> (4 * part + within // 32)) & 1
        group = index // 16
        bits = packed[group] & 15 if group < 8 else packed[group - 8] >> 4
        bits |= ((packed[8 + group % 4] >> (2 * (group // 4))) & 3) << 4
        weights.append(scale * F32(bits - 32) * F32(low - (0 if high else 4)))
    return weights


def scale_and_minimum(packed, group):
    """The integers of 6 bits of a group, as in `get_scale_min_k4`."""
    if group < 4:
        return packed[group] & 63, packed[group + 4] & 63
    low, first, second = packed[group + 4], packed[group - 4], packed[group]
    return (low & 15) | ((first >> 6) << 4), (low >> 4) | ((second >> 6) << 4)


def q4_k(block):
    scale, least, weights = half(block, 0), half(block, 2), []
    for index in range(256):
        part, within = divmod(index, 64)
        byte = block[16 + 32 * part + within % 32]
        code = byte & 15 if within < 32 else byte >> 4
        integer, minimum = scale_and_minimum(block[4:16], index // 32)
        weights.append(scale * F32(integer) * F32(code) - least * F32(minimum))
    return weights


def q5_k(block):
    scale, least, weights = half(block, 0), half(block, 2), []
    for index in range(256):
        part, within = divmod(index, 64)
        byte = block[48 + 32 * part + within % 32]
        code = byte & 15 if within < 32 else byte >> 4
        code |= ((block[16 + within % 32] >> (index // 32)) & 1) << 4
        integer, minimum = scale_and_minimum(block[4:16], index // 32)
        weights.append(scale * F32(integer) * F32(code) - least * F32(minimum))
    return weights


def q6_k(block):
    scale, weights = half(block, 208), []
    integers = struct.unpack_from("<16b", block, 192)
    for index in range(256):
        part, within = divmod(index, 128)
        byte = block[64 * part + within % 64]
        code = byte & 15 if within < 64 else byte >> 4
        code |= ((block[128 + 32 * part + within % 32] >> (2 * (within // 32))) & 3) << 4
        weights.append(scale * F32(integers[index // 16]) * F32(code - 32))
    return weights


DECODERS = {
    "Q4_0": (q4_0, 32, 18),
    "Q4_1": (q4_1, 32, 20),
    "Q5_0": (q5_0, 32, 22),
    "Q5_1": (q5_1, 32, 24),
    "Q8_0": (q8_0, 32, 34),
    "Q2_K": (q2_k, 256, 84),
    "Q3_K": (q3_k, 256, 110),
    "Q4_K": (q4_k, 256, 144),
    "Q5_K": (q5_k, 256, 176),
    "Q6_K": (q6_k, 256, 210),
}
"""The decoders by type, with the number of weights and bytes of a block."""

HALVES = {
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "Q4_1": (0, 2),
    "Q5_1": (0, 2),
}
"""The places of the float16 numbers of a block, if there is more than the one at its start."""


def random_rows(kind, shape, random):
    """Random blocks of a matrix with small scales. Returns (bytes, weights)."""
    decode, num_values, num_bytes = DECODERS[kind]
    outputs, inputs = shape
    blocks = random.integers(0, 256, (outputs * inputs // num_values, num_bytes), dtype=np.uint8)
    for place in HALVES.get(kind, (0,)):
        levels = 63 * 16 if kind.endswith("K") else 2 ** int(kind[1])
        scales = (random.uniform(0.2, 1, len(blocks)) / levels).astype("<f2")
        blocks[:, place : place + 2] = scales.view(np.uint8).reshape(-1, 2)
    weights = [weight for block in blocks for weight in decode(block.tobytes())]
    return blocks.tobytes(), np.array(weights, np.float32).reshape(shape)
