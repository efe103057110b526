"""Quantizes tiny checkpoints: writes a quantized checkpoint, and the checkpoint with the
dequantized weights in bfloat16.
"""

import json
import re
import shutil
from dataclasses import dataclass, field

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tests.packed_weights import pack_awq, pack_gptq, pack_marlin, quantized

NAME = "model.safetensors"
_NOT_QUANTIZED = re.compile(r"norm|embed|lm_head|\.gate\.weight$")


@dataclass(frozen=True)
class Recipe:
    """A format with its settings. `pack` converts a plain weight to stored tensors."""

    config: dict
    pack: object
    quantize: dict = field(default_factory=dict)
    has_order: bool = False


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": False}
RECIPES = {
    "gptq": Recipe(
        GPTQ, lambda weight: pack_gptq(weight, 4), {"group_size": 32, "symmetric": True}
    ),
    "gptq-order": Recipe(
        GPTQ | {"desc_act": True, "sym": False},
        lambda weight: pack_gptq(weight, 4),
        {"group_size": 32},
        has_order=True,
    ),
    "gptq-v2-3-bits": Recipe(
        GPTQ | {"bits": 3, "sym": False, "checkpoint_format": "gptq_v2"},
        lambda weight: pack_gptq(weight, 3, version=2),
        {"group_size": 32, "bits": 3},
    ),
    "awq": Recipe(
        {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"},
        pack_awq,
        {"group_size": 32},
    ),
    "marlin": Recipe(
        GPTQ | {"group_size": -1, "checkpoint_format": "marlin"}, pack_marlin, {"symmetric": True}
    ),
}


def write_quantized(source, folder, name):
    """Quantize the matrices of all layers. Returns the quantized folder and the dequantized one."""
    recipe, random = RECIPES[name], np.random.default_rng(0)
    whole, packed, orders = {}, {}, {}
    for key, tensor in load_file(source / NAME).items():
        if tensor.dim() != 2 or not key.endswith(".weight") or _NOT_QUANTIZED.search(key):
            whole[key] = packed[key] = tensor.bfloat16()
            continue
        inputs = tensor.shape[1]
        order = orders.setdefault(inputs, random.permutation(inputs)) if recipe.has_order else None
        weight = quantized(tensor.double().numpy(), order=order, **recipe.quantize)
        whole[key] = torch.from_numpy(weight.dequantized()).bfloat16()
        module = key.removesuffix(".weight")
        for part, values in recipe.pack(weight).items():
            packed[f"{module}.{part}"] = torch.from_numpy(values.copy())
    paths = folder / "quantized", folder / "dequantized"
    for path, tensors in zip(paths, (packed, whole), strict=True):
        shutil.copytree(source, path, ignore=shutil.ignore_patterns("*.safetensors"))
        save_file(tensors, path / NAME, metadata={"format": "pt"})
    change_config(paths[0], quantization_config=recipe.config)
    return paths


def change_config(folder, **fields):
    """Set fields of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
