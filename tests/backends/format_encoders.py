"""Quantizes tiny checkpoints to each format, and writes the same weights without quantization."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tgi.checkpoints.checkpoint import open_checkpoint
from tgi.checkpoints.quantized import CodeKind, code_values
from tgi.checkpoints.safetensors_file import float32_array

__all__ = ["ENCODERS", "EXPERT_ENCODERS", "quantized_checkpoint", "unquantized_checkpoint"]

Array = np.ndarray
Stored = dict[str, tuple[str, Array]]  # name: (stored dtype, values)
Encoder = Callable[[str, Array], Stored]


def _compressed(layout: str, bits: int, kind: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"num_bits": bits, "type": kind, **weights}}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


def _nearest(numbers: Array, kind: CodeKind, bits: int) -> Array:
    table = code_values(kind, bits)
    order = np.argsort(np.nan_to_num(table, nan=np.inf), kind="stable")
    ordered = table[order]
    ordered = ordered[np.isfinite(ordered)]
    places = np.clip(np.searchsorted(ordered, numbers), 1, len(ordered) - 1)
    is_lower = numbers - ordered[places - 1] < ordered[places] - numbers
    return order[places - is_lower].astype(np.uint8)


def _grouped(weight: Array, size: int) -> tuple[Array, Array]:
    groups = weight.reshape(weight.shape[0], -1, size)
    return groups, np.abs(groups).max(-1)


def _words(codes: Array, bits: int) -> Array:
    lanes = codes.reshape(codes.shape[0], -1, 32 // bits).astype(np.uint32)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    return (lanes << shifts).sum(-1, dtype=np.uint32).view(np.int32)


def _pairs(codes: Array) -> Array:
    return codes[..., ::2] | (codes[..., 1::2] << 4)


def packed_int4(name: str, weight: Array) -> Stored:
    groups, _ = _grouped(weight, 16)
    low, high = groups.min(-1), groups.max(-1)
    scales = ((high - low) / 15).astype(np.float32)
    zeros = np.clip(np.round(-low / scales), 0, 15)
    codes = np.clip(np.round(groups / scales[..., None]) + zeros[..., None], 0, 15)
    return {
        f"{name}_packed": ("I32", _words(codes.reshape(weight.shape), 4)),
        f"{name}_scale": ("F32", scales),
        f"{name}_zero_point": ("I32", np.ascontiguousarray(_words(zeros.T, 4).T)),
        f"{name}_shape": ("I64", np.array(weight.shape, np.int64)),
    }


def int8(name: str, weight: Array) -> Stored:
    scales = (np.abs(weight).max(1, keepdims=True) / 127).astype(np.float32)
    return {
        name: ("I8", np.round(weight / scales).astype(np.int8)),
        f"{name}_scale": ("F32", scales),
    }


def fp8_output(name: str, weight: Array) -> Stored:
    scales = (np.abs(weight).max(1, keepdims=True) / 448).astype(np.float32)
    codes = _nearest(weight / scales, CodeKind.E4M3, 8)
    return {name: ("F8_E4M3", codes), f"{name}_scale": ("F32", scales)}


def nvfp4(name: str, weight: Array) -> Stored:
    groups, largest = _grouped(weight, 16)
    divisor = np.float32(448 * 6 / largest.max())
    scale_codes = _nearest(largest * divisor / 6, CodeKind.E4M3, 8)
    scales = code_values(CodeKind.E4M3)[scale_codes] / divisor
    codes = _nearest(groups / scales[..., None], CodeKind.E2M1, 4).reshape(weight.shape)
    return {
        f"{name}_packed": ("U8", _pairs(codes)),
        f"{name}_scale": ("F8_E4M3", scale_codes),
        f"{name}_global_scale": ("F32", divisor.reshape(1)),
    }


def fp8_blocks(name: str, weight: Array) -> Stored:
    rows, columns = weight.shape
    padded = np.pad(np.abs(weight), ((0, -rows % 24), (0, -columns % 24)))
    scales = padded.reshape(-(-rows // 24), 24, -(-columns // 24), 24).max((1, 3)) / 448
    whole = scales.repeat(24, 0).repeat(24, 1)[:rows, :columns]
    return {
        name: ("F8_E4M3", _nearest(weight / whole, CodeKind.E4M3, 8)),
        f"{name}_scale_inv": ("F32", scales.astype(np.float32)),
    }


def fp8_static(name: str, weight: Array) -> Stored:
    scale = np.array(np.abs(weight).max() / 448, np.float32)
    return {
        name: ("F8_E4M3", _nearest(weight / scale, CodeKind.E4M3, 8)),
        f"{name}_scale": ("F32", scale),
        f"{name.removesuffix('weight')}input_scale": ("F32", np.array(0.1, np.float32)),
    }


def nf4(name: str, weight: Array) -> Stored:
    blocks = weight.reshape(-1, 64)
    scales = np.abs(blocks).max(1).astype(np.float32)
    codes = _nearest(blocks / scales[:, None], CodeKind.NF4, 4).reshape(-1)
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": weight.shape}
    return {
        name: ("U8", ((codes[::2] << 4) | codes[1::2]).reshape(-1, 1)),
        f"{name}.absmax": ("F32", scales),
        f"{name}.quant_map": ("F32", code_values(CodeKind.NF4, 4)),
        f"{name}.quant_state.bitsandbytes__nf4": (
            "U8",
            np.frombuffer(json.dumps(state).encode(), np.uint8),
        ),
    }


def bitsandbytes_int8(name: str, weight: Array) -> Stored:
    scales = np.abs(weight).max(1).astype(np.float32)
    module = name.removesuffix("weight")
    return {
        name: ("I8", np.round(weight * 127 / scales[:, None]).astype(np.int8)),
        f"{module}SCB": ("F32", scales),
        f"{module}weight_format": ("U8", np.array(0, np.uint8)),
    }


def eetq(name: str, weight: Array) -> Stored:
    outputs, inputs = weight.shape
    scales = (np.abs(weight).max(1) / 127).astype(np.float16)
    codes = np.round(weight / scales[:, None].astype(np.float32)).astype(np.int64) + 128
    order = [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15]
    tiles = codes.reshape(outputs, inputs // 16, 16)[..., order].reshape(outputs // 2, 2, -1, 64)
    fours = tiles.swapaxes(1, 2).reshape(-1, 4)[:, [0, 2, 1, 3]]
    stored = fours.astype(np.uint8).view(np.int8).reshape(inputs, outputs)
    return {name: ("I8", stored), f"{name}_scales": ("F16", scales)}


def torchao_int8(name: str, weight: Array) -> Stored:
    module, stored = name.removesuffix("weight"), int8(name, weight)
    return {
        f"{module}_weight_qdata": stored[name],
        f"{module}_weight_scale": stored[f"{name}_scale"],
    }


def exl2(name: str, weight: Array) -> Stored:
    """The first half of the permuted inputs has 4 bits, and the other half has 8 bits."""
    module, (outputs, inputs) = name.removesuffix("weight"), weight.shape
    order = np.random.default_rng(inputs).permutation(inputs)
    packed, factors, largest = [], [], []
    for bits, part in zip((4, 8), np.split(order, 2), strict=True):
        scale = np.float16(np.abs(weight).max() / (2 ** (bits - 1) - 1))
        zero = 1 << (bits - 1)
        codes = np.clip(np.round(weight[:, part] / np.float32(scale)) + zero, 0, 2 * zero - 1)
        packed.append(_words(codes, bits).T)
        factors.append(np.full(outputs, 15))
        largest.append(scale)
    return {
        f"{module}q_weight": ("I32", np.concatenate(packed)),
        f"{module}q_scale": ("I32", _words(np.array(factors), 4)),
        f"{module}q_scale_max": ("F16", np.array(largest)),
        f"{module}q_groups": ("I16", np.array([4, 0, 8, len(packed[0])], np.int16)),
        f"{module}q_invperm": ("I32", np.argsort(order).astype(np.int32)),
    }


def mxfp4_experts(name: str, weight: Array) -> Stored:
    """`weight` is [experts, inputs, outputs], and the blocks are [experts, outputs, …]."""
    groups = weight.swapaxes(1, 2).reshape(weight.shape[0], weight.shape[2], -1, 32)
    exponents = np.ceil(np.log2(np.abs(groups).max(-1) / 6))
    codes = _nearest(groups / 2.0 ** exponents[..., None], CodeKind.E2M1, 4)
    return {
        f"{name}_blocks": ("U8", _pairs(codes)),
        f"{name}_scales": ("U8", (exponents + 127).astype(np.uint8)),
    }


_FP8 = {"quant_method": "fp8"}
_NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
_GROUPS = {"strategy": "group", "group_size": 16, "symmetric": False}

ENCODERS: Mapping[str, tuple[dict[str, Any], Encoder]] = {
    "compressed-int4": (_compressed("pack-quantized", 4, "int", **_GROUPS), packed_int4),
    "compressed-int8": (_compressed("int-quantized", 8, "int", strategy="channel"), int8),
    "compressed-fp8": (
        _compressed("float-quantized", 8, "float", strategy="channel"),
        fp8_output,
    ),
    "compressed-nvfp4": (
        _compressed("nvfp4-pack-quantized", 4, "float", strategy="tensor_group", group_size=16),
        nvfp4,
    ),
    "fp8-blocks": (_FP8 | {"weight_block_size": [24, 24]}, fp8_blocks),
    "fp8-static": (_FP8 | {"activation_scheme": "static"}, fp8_static),
    "fbgemm_fp8": ({"quant_method": "fbgemm_fp8"}, fp8_output),
    "nf4": ({"quant_method": "bitsandbytes"} | _NF4, nf4),
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, bitsandbytes_int8),
    "eetq": ({"quant_method": "eetq"}, eetq),
    "torchao": ({"quant_method": "torchao", "quant_type": "int8wo"}, torchao_int8),
    "exl2": ({"quant_method": "exl2"}, exl2),
}
"""Maps each format to its `quantization_config` and the function that encodes one matrix."""

EXPERT_ENCODERS: Mapping[str, tuple[dict[str, Any], Encoder]] = {
    "mxfp4": ({"quant_method": "mxfp4"}, mxfp4_experts),
}
"""As `ENCODERS`, for experts that are stacked in one tensor."""


def quantized_checkpoint(source: Path, target: Path, kind: str) -> None:
    """Write the checkpoint in `source` with the matrices of its layers in a format of `ENCODERS`,
    or with its experts in a format of `EXPERT_ENCODERS`.
    """
    is_stacked = kind in EXPERT_ENCODERS
    settings, encode = (EXPERT_ENCODERS if is_stacked else ENCODERS)[kind]
    shutil.copytree(source, target)
    tensors: Stored = {}
    with open_checkpoint(source) as checkpoint:
        for name, mapped in checkpoint.mapped.items():
            weight = float32_array(mapped)
            is_expert = ".experts." in name and weight.ndim == 3
            if is_expert if is_stacked else _is_linear(name, weight):
                tensors |= encode(name, weight)
            else:
                tensors[name] = ("F32", weight)
    _write(target, tensors)
    config = json.loads((source / "config.json").read_text())
    text = json.dumps(config | {"quantization_config": settings})
    (target / "config.json").write_text(text)


def unquantized_checkpoint(source: Path, target: Path) -> None:
    """Write the checkpoint in `source` with dequantized weights in float32. Weights of stacked
    experts are transposed, because unquantized experts are [experts, inputs, outputs].
    """
    shutil.copytree(source, target)
    with open_checkpoint(source) as checkpoint:
        tensors: Stored = {
            name: ("F32", float32_array(checkpoint.mapped[name]))
            for name in checkpoint.tensors.plain
        }
        for name, tensor in checkpoint.tensors.quantized.items():
            experts = range(tensor.shape[0]) if len(tensor.shape) == 3 else (None,)
            rows = slice(0, tensor.shape[-2])
            matrices = [checkpoint.decode(name, index, rows).dequantize() for index in experts]
            stacked = np.stack([matrix.T for matrix in matrices])
            tensors[name] = ("F32", matrices[0] if experts == (None,) else stacked)
    _write(target, tensors)
    config = json.loads((source / "config.json").read_text())
    del config["quantization_config"]
    (target / "config.json").write_text(json.dumps(config))


def _is_linear(name: str, weight: Array) -> bool:
    is_outside = any(word in name for word in ("embed", "lm_head", "norm", "gate.weight"))
    return weight.ndim == 2 and name.endswith(".weight") and not is_outside


def _write(path: Path, tensors: Stored) -> None:
    for file in path.glob("*.safetensors*"):
        file.unlink()
    header: dict[str, Any] = {}
    data = bytearray()
    for name, (dtype, values) in tensors.items():
        encoded = np.ascontiguousarray(values).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(np.shape(values)),
            "data_offsets": [len(data), len(data) + len(encoded)],
        }
        data += encoded
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
