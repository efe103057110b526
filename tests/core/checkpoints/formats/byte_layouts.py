"""More layouts, as in `layouts.py`: 4-bit weights of bitsandbytes, MX formats with a scale per 32
inputs, and torchao's tensors with one code per byte.
"""

import json

import numpy as np

from tests.core.checkpoints.formats.layouts import (
    MODULE,
    WEIGHT,
    Layout,
    compressed_config,
    e2m1,
    e4m3,
    e4m3_codes,
    format_of,
    pack_pairs,
    random_scales,
)
from tests.core.checkpoints.formats.memory_checkpoint import MemoryCheckpoint
from tgi.checkpoints.quantized import CodeKind, code_values


def bitsandbytes_4bit(kind="nf4", shape=(6, 64), block=64, *, nested=False):
    """Codes and blocks run over the flattened matrix. With `nested`, the scales are codes of a
    table, and 2 scales share a second scale.
    """
    random = np.random.default_rng(12)
    count = shape[0] * shape[1]
    blocks = -(-count // block)
    codes = random.integers(0, 16, count)
    scales = random_scales(random, blocks)
    table = np.sort(random.uniform(-1, 1, 256)).astype(np.float32)
    scale_codes = random.integers(0, 256, blocks, dtype=np.uint8)
    second = random_scales(random, -(-blocks // 2))
    if nested:
        for index in range(blocks):
            scales[index] = table[scale_codes[index]] * second[index // 2] + np.float32(0.5)
    values = code_values(CodeKind(kind), 4)
    weights = np.zeros(count, np.float32)
    for index in range(count):
        weights[index] = values[codes[index]] * scales[index // block]
    padded = np.append(codes, [0] * (count % 2))
    state = {"quant_type": kind, "blocksize": block, "dtype": "bfloat16", "shape": list(shape)}
    if nested:
        state |= {"nested_blocksize": 2, "nested_dtype": "float32", "nested_offset": 0.5}
    arrays = {
        WEIGHT: pack_pairs(padded[None], first_is_low=False).reshape(-1, 1),
        f"{WEIGHT}.absmax": scale_codes if nested else scales,
        f"{WEIGHT}.quant_map": values,
        f"{WEIGHT}.quant_state.bitsandbytes__{kind}": np.frombuffer(
            json.dumps(state).encode(), np.uint8
        ),
    }
    if nested:
        arrays |= {f"{WEIGHT}.nested_absmax": second, f"{WEIGHT}.nested_quant_map": table}
    settings = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": kind,
    }
    form = format_of(settings)
    return Layout(form, MemoryCheckpoint.of(arrays), weights.reshape(shape))


def compressed_mx(bits):
    random = np.random.default_rng(13)
    codes = (
        random.integers(0, 16, (3, 64), dtype=np.uint8) if bits == 4 else e4m3_codes(random, 3, 64)
    )
    scales = random.integers(110, 130, (3, 2), dtype=np.uint8)
    weights = np.zeros((3, 64), np.float32)
    for output, position in np.ndindex(weights.shape):
        code = int(codes[output, position])
        number = e2m1(code) if bits == 4 else e4m3(code)
        weights[output, position] = number * 2.0 ** (int(scales[output, position // 32]) - 127)
    config = {"num_bits": bits, "type": "float", "strategy": "group", "group_size": 32}
    if bits == 4:
        arrays, dtypes = {f"{MODULE}.weight_packed": pack_pairs(codes)}, {}
    else:
        arrays, dtypes = {WEIGHT: codes}, {WEIGHT: "F8_E4M3"}
    arrays[f"{MODULE}.weight_scale"] = scales
    layout = "mxfp4-pack-quantized" if bits == 4 else "mxfp8-quantized"
    return Layout(compressed_config(layout, config), MemoryCheckpoint.of(arrays, dtypes), weights)


def torchao_int8(groups=1, *, zeros=False):
    random = np.random.default_rng(14)
    codes = random.integers(-128, 128, (4, 12), dtype=np.int8)
    scales = random_scales(random, 4, groups)
    points = random.integers(-8, 8, scales.shape, dtype=np.int8)
    weights = np.zeros((4, 12), np.float32)
    for output, position in np.ndindex(weights.shape):
        group = position // (12 // groups)
        zero = int(points[output, group]) if zeros else 0
        weights[output, position] = (
            np.float32(int(codes[output, position]) - zero) * scales[output, group]
        )
    arrays = {f"{MODULE}._weight_qdata": codes, f"{MODULE}._weight_scale": scales}
    if zeros:
        arrays[f"{MODULE}._weight_zero_point"] = points
    settings = {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnly"}}}
    return Layout(format_of(settings), MemoryCheckpoint.of(arrays), weights)


def torchao_fp8():
    random = np.random.default_rng(15)
    codes = e4m3_codes(random, 4, 12)
    scales = random_scales(random, 4, 1)
    weights = np.zeros((4, 12), np.float32)
    for output, position in np.ndindex(weights.shape):
        weights[output, position] = (
            np.float32(e4m3(int(codes[output, position]))) * scales[output, 0]
        )
    arrays = {f"{MODULE}._weight_qdata": codes, f"{MODULE}._weight_scale": scales}
    return Layout(
        format_of({"quant_method": "torchao", "quant_type": "float8wo"}),
        MemoryCheckpoint.of(arrays, {f"{MODULE}._weight_qdata": "F8_E4M3"}),
        weights,
    )
