"""Packs quantized weights in the formats GPTQ, AWQ and Marlin with plain loops, straight from the
definition of each format.
"""

from dataclasses import dataclass

import numpy as np

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class PlainWeight:
    """Integer codes [outputs, inputs], zeros [outputs, groups], float16 scales [outputs, groups]
    and the group of each input.
    """

    codes: np.ndarray
    zeros: np.ndarray
    scales: np.ndarray
    groups: np.ndarray

    def dequantized(self):
        """The weights in float32, computed in a plain loop."""
        weights = np.zeros(self.codes.shape, np.float32)
        for output, column in np.ndindex(weights.shape):
            group = self.groups[column]
            difference = int(self.codes[output, column]) - int(self.zeros[output, group])
            weights[output, column] = np.float32(self.scales[output, group]) * np.float32(
                difference
            )
        return weights


def quantized(weight, *, bits=4, group_size=None, symmetric=False, order=None):
    """Quantize float weights [outputs, inputs]. `order` is a permutation of the inputs: group 0
    contains the first inputs of `order`.
    """
    outputs, inputs = weight.shape
    size = group_size or inputs
    groups = np.zeros(inputs, np.int32)
    for place, column in enumerate(range(inputs) if order is None else order):
        groups[column] = place // size
    count, top = int(groups.max()) + 1, (1 << bits) - 1
    codes = np.zeros((outputs, inputs), np.int64)
    zeros, scales = np.zeros((outputs, count), np.int64), np.zeros((outputs, count), np.float16)
    for group in range(count):
        own = weight[:, groups == group]
        low, high = np.minimum(own.min(1), 0), np.maximum(own.max(1), 0)
        if symmetric:
            high = np.maximum(-low, high)
            low = -high
        scales[:, group] = np.maximum((high - low) / top, 1e-4).astype(np.float16)
        scale = scales[:, group].astype(np.float64)
        zeros[:, group] = 1 << (bits - 1) if symmetric else np.clip(np.round(-low / scale), 0, top)
        rounded = np.round(own / scale[:, None]) + zeros[:, group, None]
        codes[:, groups == group] = np.clip(rounded, 0, top)
    return PlainWeight(codes, zeros, scales, groups)


def words_of(values, bits):
    """The codes as one number, whose lowest bits are the first code, as uint32 words."""
    number = 0
    for place, value in enumerate(values):
        number |= int(value) << (bits * place)
    return np.frombuffer(number.to_bytes(len(values) * bits // 8, "little"), "<u4")


def pack_gptq(weight, bits, *, version=1):
    """The tensors of GPTQ. Version 1 stores each zero minus 1."""
    stored_zeros = (weight.zeros - (version == 1)) % (1 << bits)
    return {
        "qweight": np.stack([words_of(row, bits) for row in weight.codes], 1).view(np.int32),
        "qzeros": np.stack([words_of(row, bits) for row in stored_zeros.T]).view(np.int32),
        "scales": np.ascontiguousarray(weight.scales.T),
        "g_idx": weight.groups,
    }


def pack_awq(weight):
    """The tensors of AWQ. Each word contains 8 outputs of one input."""

    def words(rows):
        return np.stack([words_of(_awq_order(row), 4) for row in rows]).view(np.int32)

    return {
        "qweight": words(weight.codes.T),
        "qzeros": words(weight.zeros.T),
        "scales": np.ascontiguousarray(weight.scales.T),
    }


def _awq_order(row):
    return [row[start + place] for start in range(0, len(row), 8) for place in AWQ_ORDER]


def pack_marlin(weight):
    """The tensors of Marlin: for each thread of a warp, the codes of its fragments.

    A tensor core multiplies a matrix B [16 inputs, 8 outputs] by the instruction mma.m16n8k16. The
    PTX manual assigns four of its values to each thread: the inputs 2 * (thread % 4) + 0, 1, 8, 9
    of the output thread // 4. A word of Marlin contains the fragments of two neighbouring B, with
    the values of even places first.
    """
    outputs, inputs = weight.codes.shape
    packed = np.zeros((inputs // 16, outputs * 2), np.uint32)
    for row in range(inputs // 16):
        words = []
        for chunk in range(0, outputs, 64):
            for thread in range(32):
                for tile in range(chunk, chunk + 64, 16):
                    values = [
                        weight.codes[tile + half * 8 + thread // 4, row * 16 + 2 * (thread % 4) + k]
                        for half in range(2)
                        for k in (0, 1, 8, 9)
                    ]
                    words.append(int(words_of(values[0::2] + values[1::2], 4)[0]))
        packed[row] = words
    scales = weight.scales.T.copy()
    stored = np.empty_like(scales)
    for output in range(outputs):
        if len(scales) > 1:
            base, place = output // 64 * 64, output % 64
            source = base + place // 8 + 8 * (place % 8)
        else:
            base, place = output // 32 * 32, output % 32
            source = base + 2 * (place // 8) + (0, 1, 8, 9, 16, 17, 24, 25)[place % 8]
        stored[:, output] = scales[:, source]
    workspace = np.zeros(outputs // 128 * 16, np.int32)
    return {"B": packed.view(np.int32), "s": stored, "workspace": workspace}
