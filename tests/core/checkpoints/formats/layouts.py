"""Writes each layout of quantized weights from its definition, with plain loops.

Each function returns a `Layout`: the settings, a checkpoint in memory, and the expected numbers.
"""

from dataclasses import dataclass

import numpy as np

from tests.core.checkpoints.formats.memory_checkpoint import MemoryCheckpoint
from tgi.checkpoints.formats.table import FORMATS
from tgi.checkpoints.settings import Settings

MODULE = "model.layers.0.mlp.up_proj"
WEIGHT = f"{MODULE}.weight"
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True)
class Layout:
    form: object
    checkpoint: MemoryCheckpoint
    weights: np.ndarray  # float32 [outputs, inputs] or [experts, outputs, inputs]
    name: str = WEIGHT

    @property
    def is_stacked(self):
        return self.weights.ndim == 3

    @property
    def tensor(self):
        return self.checkpoint.tensors(self.form)[self.name]


def format_of(settings):
    return FORMATS[settings["quant_method"]](Settings(settings, "config.json"))


def pack_bits(codes, bits, axis):
    """Pack codes into 32-bit words, lowest bits first. A code may continue in the next word."""
    lines = np.moveaxis(codes, axis, -1)
    words = -(-lines.shape[-1] * bits // 32)
    packed = np.zeros((*lines.shape[:-1], words), np.uint32)
    for index in np.ndindex(lines.shape[:-1]):
        number = 0
        for position, code in enumerate(lines[index]):
            number |= int(code) << (bits * position)
        for word in range(words):
            packed[(*index, word)] = (number >> (32 * word)) & 0xFFFFFFFF
    return np.ascontiguousarray(np.moveaxis(packed, -1, axis)).view(np.int32)


def small_float(code, exponent_bits, bias):
    """The number of an 8-bit float. Codes of NaN and infinity do not occur in the layouts."""
    mantissa_bits = 7 - exponent_bits
    sign = -1.0 if code & 0x80 else 1.0
    exponent = (code & 0x7F) >> mantissa_bits
    fraction = (code & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    if exponent == 0:
        return sign * fraction * 2.0 ** (1 - bias)
    return sign * (1 + fraction) * 2.0 ** (exponent - bias)


def e4m3(code):
    return small_float(code, 4, 7)


def e2m1(code):
    return -E2M1[code & 7] if code & 8 else E2M1[code]


def bf16_bits(values):
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def bf16_value(bits):
    return np.array(int(bits) << 16, np.uint32).view(np.float32)


def random_scales(random, *shape):
    return random.uniform(0.01, 0.1, shape).astype(np.float32)


def e4m3_codes(random, *shape):
    codes = random.integers(0, 256, shape, dtype=np.uint8)
    return np.where((codes & 0x7F) == 0x7F, np.uint8(0x10), codes)


def compressed_config(layout, weights, **others):
    group = {"targets": ["Linear"], "weights": weights}
    return format_of(
        {
            "quant_method": "compressed-tensors",
            "format": layout,
            "config_groups": {"group_0": group | others},
            "ignore": ["lm_head"],
            "quantization_status": "compressed",
        }
    )


def packed_integers(bits=4, *, symmetric=True, group=8, order=False):
    random = np.random.default_rng(bits + group)
    outputs, inputs = 16, 32
    codes = random.integers(0, 1 << bits, (outputs, inputs))
    scales = random_scales(random, outputs, inputs // group)
    zeros = random.integers(0, 1 << bits, scales.shape)
    groups = random.permutation(np.arange(inputs) // group)
    weights = np.zeros((outputs, inputs), np.float32)
    for output, position in np.ndindex(weights.shape):
        own = groups[position] if order else position // group
        zero = 1 << (bits - 1) if symmetric else zeros[output, own]
        weights[output, position] = np.float32(codes[output, position] - zero) * bf16_value(
            bf16_bits(scales)[output, own]
        )
    arrays = {
        f"{MODULE}.weight_packed": pack_bits(codes, bits, 1),
        f"{MODULE}.weight_scale": bf16_bits(scales),
        f"{MODULE}.weight_shape": np.array([outputs, inputs], np.int64),
    }
    if not symmetric:
        arrays[f"{MODULE}.weight_zero_point"] = pack_bits(zeros, bits, 0)
    if order:
        arrays[f"{MODULE}.weight_g_idx"] = groups.astype(np.int32)
    config = {
        "num_bits": bits,
        "type": "int",
        "strategy": "group",
        "group_size": group,
        "symmetric": symmetric,
    }
    return Layout(
        compressed_config("pack-quantized", config),
        MemoryCheckpoint.of(arrays, {f"{MODULE}.weight_scale": "BF16"}),
        weights,
    )


def int8_per_output(*, symmetric=True):
    random = np.random.default_rng(1)
    codes = random.integers(-128, 128, (6, 10), dtype=np.int8)
    scales = random_scales(random, 6, 1)
    zeros = random.integers(-128, 128, (6, 1), dtype=np.int8)
    weights = np.zeros((6, 10), np.float32)
    for output, position in np.ndindex(weights.shape):
        zero = 0 if symmetric else int(zeros[output, 0])
        weights[output, position] = (
            np.float32(int(codes[output, position]) - zero) * scales[output, 0]
        )
    arrays = {WEIGHT: codes, f"{WEIGHT}_scale": scales}
    if not symmetric:
        arrays[f"{WEIGHT}_zero_point"] = zeros
    config = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": symmetric}
    activations = {"num_bits": 8, "type": "int", "dynamic": True}
    return Layout(
        compressed_config("int-quantized", config, input_activations=activations),
        MemoryCheckpoint.of(arrays),
        weights,
    )


def compressed_fp8(strategy, block=None):
    random = np.random.default_rng(2)
    codes = e4m3_codes(random, 6, 10)
    rows, columns = {"tensor": (6, 10), "channel": (1, 10), "block": block}[strategy]
    scales = random_scales(random, -(-6 // rows), -(-10 // columns))
    weights = np.zeros((6, 10), np.float32)
    for output, position in np.ndindex(weights.shape):
        scale = scales[output // rows, position // columns]
        weights[output, position] = np.float32(e4m3(int(codes[output, position]))) * scale
    stored_scales = scales.reshape(1) if strategy == "tensor" else scales
    config = {"num_bits": 8, "type": "float", "strategy": strategy}
    if block:
        config["block_structure"] = list(block)
    return Layout(
        compressed_config("float-quantized", config),
        MemoryCheckpoint.of({WEIGHT: codes, f"{WEIGHT}_scale": stored_scales}, {WEIGHT: "F8_E4M3"}),
        weights,
    )


def pack_pairs(codes, *, first_is_low=True):
    """Pack codes [outputs, inputs] of four bits into bytes [outputs, inputs / 2]."""
    packed = np.zeros((codes.shape[0], codes.shape[1] // 2), np.uint8)
    for row, pair in np.ndindex(packed.shape):
        first, second = int(codes[row, 2 * pair]), int(codes[row, 2 * pair + 1])
        packed[row, pair] = (second << 4 | first) if first_is_low else (first << 4 | second)
    return packed


def nvfp4():
    random = np.random.default_rng(3)
    codes = random.integers(0, 16, (4, 32), dtype=np.uint8)
    scales = e4m3_codes(random, 4, 2) & 0x7F
    divisor = np.float32(448.0 * 6 / 1.7)
    weights = np.zeros((4, 32), np.float32)
    for output, position in np.ndindex(weights.shape):
        scale = np.float32(e4m3(int(scales[output, position // 16]))) / divisor
        weights[output, position] = np.float32(e2m1(int(codes[output, position]))) * scale
    config = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
    return Layout(
        compressed_config("nvfp4-pack-quantized", config),
        MemoryCheckpoint.of(
            {
                f"{MODULE}.weight_packed": pack_pairs(codes),
                f"{MODULE}.weight_scale": scales,
                f"{MODULE}.weight_global_scale": np.array([divisor]),
            },
            {f"{MODULE}.weight_scale": "F8_E4M3"},
        ),
        weights,
    )


def fp8_blocks():
    random = np.random.default_rng(4)
    codes = e4m3_codes(random, 5, 9)
    scales = random_scales(random, 2, 3)
    weights = np.zeros((5, 9), np.float32)
    for output, position in np.ndindex(weights.shape):
        weights[output, position] = (
            np.float32(e4m3(int(codes[output, position]))) * scales[output // 4, position // 4]
        )
    return Layout(
        format_of({"quant_method": "fp8", "weight_block_size": [4, 4]}),
        MemoryCheckpoint.of({WEIGHT: codes, f"{WEIGHT}_scale_inv": scales}, {WEIGHT: "F8_E4M3"}),
        weights,
    )


def fp8_static():
    random = np.random.default_rng(5)
    codes = e4m3_codes(random, 5, 8)
    weights = np.zeros((5, 8), np.float32)
    for output, position in np.ndindex(weights.shape):
        weights[output, position] = np.float32(e4m3(int(codes[output, position]))) * np.float32(0.3)
    arrays = {
        WEIGHT: codes,
        f"{WEIGHT}_scale": np.array(0.3, np.float32),
        f"{MODULE}.input_scale": np.array(0.2, np.float32),
    }
    return Layout(
        format_of({"quant_method": "fp8", "activation_scheme": "static"}),
        MemoryCheckpoint.of(arrays, {WEIGHT: "F8_E4M3"}),
        weights,
    )


def fbgemm_experts():
    """Stacked experts [experts, inputs, outputs], with scales [experts, 1, outputs]."""
    random = np.random.default_rng(6)
    name = "model.layers.0.mlp.experts.down_proj"
    codes = e4m3_codes(random, 3, 8, 5)
    scales = random_scales(random, 3, 1, 5)
    weights = np.zeros((3, 5, 8), np.float32)
    for expert, output, position in np.ndindex(weights.shape):
        number = np.float32(e4m3(int(codes[expert, position, output])))
        weights[expert, output, position] = number * scales[expert, 0, output]
    return Layout(
        format_of({"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["lm_head"]}),
        MemoryCheckpoint.of({name: codes, f"{name}_scale": scales}, {name: "F8_E4M3"}),
        weights,
        name,
    )


def mxfp4_experts():
    random = np.random.default_rng(7)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    codes = random.integers(0, 16, (2, 4, 64), dtype=np.uint8)
    scales = random.integers(110, 130, (2, 4, 2), dtype=np.uint8)
    weights = np.zeros((2, 4, 64), np.float32)
    for expert, output, position in np.ndindex(weights.shape):
        scale = 2.0 ** (int(scales[expert, output, position // 32]) - 127)
        weights[expert, output, position] = e2m1(int(codes[expert, output, position])) * scale
    blocks = np.stack([pack_pairs(matrix) for matrix in codes]).reshape(2, 4, 2, 16)
    arrays = {f"{name}_blocks": blocks, f"{name}_scales": scales}
    return Layout(format_of({"quant_method": "mxfp4"}), MemoryCheckpoint.of(arrays), weights, name)


def eetq_int8():
    """The order of memory of one byte: pair of outputs, tile of 64 inputs, output in the pair,
    position. Within 16 positions, inputs have a fixed order, and bytes 1 and 2 of 4 are swapped.
    """
    random = np.random.default_rng(8)
    outputs, inputs = 4, 128
    codes = random.integers(-128, 128, (outputs, inputs))
    scales = random_scales(random, outputs).astype(np.float16)
    order = (0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15)
    memory = []
    for pair in range(outputs // 2):
        for tile in range(inputs // 64):
            for output in (2 * pair, 2 * pair + 1):
                for quarter in range(4):
                    block = [codes[output, tile * 64 + quarter * 16 + place] for place in order]
                    for four in range(4):
                        a, b, c, d = block[4 * four : 4 * four + 4]
                        memory += [a + 128, c + 128, b + 128, d + 128]
    weights = codes.astype(np.float32) * scales.astype(np.float32)[:, None]
    stored = np.array(memory, np.uint8).view(np.int8).reshape(inputs, outputs)
    arrays = {WEIGHT: stored, f"{WEIGHT}_scales": scales}
    return Layout(format_of({"quant_method": "eetq"}), MemoryCheckpoint.of(arrays), weights)


def exl2_mixed(group_inputs=(32, 32, 64, 16), group_bits=(6, 5, 3, 2)):
    random = np.random.default_rng(9)
    outputs, inputs = 16, sum(group_inputs)
    order = random.permutation(inputs)
    factors = random.integers(0, 16, (len(group_bits), outputs))
    largest = random.uniform(0.5, 2.0, len(group_bits)).astype(np.float16)
    packed, groups, weights, position = [], [], np.zeros((outputs, inputs), np.float32), 0
    for group, (size, bits) in enumerate(zip(group_inputs, group_bits, strict=True)):
        codes = random.integers(0, 1 << bits, (size, outputs))
        groups += [bits, sum(len(words) for words in packed)]
        packed.append(pack_bits(codes, bits, 0))
        for row, output in np.ndindex(codes.shape):
            scale = np.float32((factors[group, output] + 1) ** 2) * (
                np.float32(largest[group]) / np.float32(256)
            )
            number = np.float32(codes[row, output] - (1 << (bits - 1)))
            weights[output, order[position + row]] = number * scale
        position += size
    arrays = {
        f"{MODULE}.q_weight": np.concatenate(packed),
        f"{MODULE}.q_scale": pack_bits(factors, 4, 1),
        f"{MODULE}.q_scale_max": largest,
        f"{MODULE}.q_groups": np.array(groups, np.int16),
        f"{MODULE}.q_invperm": np.argsort(order).astype(np.int32),
    }
    return Layout(format_of({"quant_method": "exl2"}), MemoryCheckpoint.of(arrays), weights)


def torchao_int4():
    random = np.random.default_rng(10)
    codes = random.integers(-8, 8, (4, 32))
    scales, zeros = random_scales(random, 2, 4), random_scales(random, 2, 4)
    weights = np.zeros((4, 32), np.float32)
    for output, position in np.ndindex(weights.shape):
        group = position // 16
        weights[output, position] = (
            np.float32(codes[output, position]) * scales[group, output] + zeros[group, output]
        )
    arrays = {
        f"{MODULE}._weight_qdata": pack_pairs(codes & 15).view(np.int8),
        f"{MODULE}._weight_scale": scales,
        f"{MODULE}._weight_zero_point": zeros,
    }
    return Layout(format_of({"quant_method": "torchao"}), MemoryCheckpoint.of(arrays), weights)


def bitsandbytes_int8():
    random = np.random.default_rng(11)
    codes = random.integers(-127, 128, (5, 8), dtype=np.int8)
    scales = random_scales(random, 5)
    factors = scales * np.float32(1 / 127)
    arrays = {WEIGHT: codes, f"{MODULE}.SCB": scales, f"{MODULE}.weight_format": np.uint8(0)}
    arrays[f"{MODULE}.weight_format"] = np.array(0, np.uint8)
    return Layout(
        format_of({"quant_method": "bitsandbytes", "load_in_8bit": True}),
        MemoryCheckpoint.of(arrays),
        codes.astype(np.float32) * factors[:, None],
    )
