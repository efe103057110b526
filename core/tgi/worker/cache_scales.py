"""Reads the scales of a quantized cache from a checkpoint."""

from __future__ import annotations

import math
import re
from pathlib import Path

from tgi.architectures import Attention, LatentAttention, ModelSpec
from tgi.backend.errors import ModelError
from tgi.checkpoints.gguf.container import is_gguf_path
from tgi.checkpoints.safetensors_file import (
    MappedTensor,
    close_files,
    float32_array,
    map_checkpoint,
)
from tgi.worker.cache_format import CACHE_FORMATS, CacheCoding, CacheScales, unscaled

__all__ = ["cache_coding"]

# `kv_scale` is the scale of both keys and values.
_NAME = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.(?:.*)(?:attn|attention)\.(k|v|kv)_scale$")


def cache_coding(name: str | None, model_path: Path, spec: ModelSpec) -> CacheCoding | None:
    """Return the coding of the cache for `name`, a value of `--kv-cache-dtype`. None means that the
    cache contains numbers of the compute dtype.

    The scales of 8-bit floats are those of the checkpoint (`k_scale`, `v_scale` or `kv_scale` of a
    layer), or 1 if the checkpoint has none. Raises `ModelError` with the name of the tensor if a
    scale is not one positive finite number.
    """
    if name is None:
        return None
    if CACHE_FORMATS[name].scale_bytes:
        return unscaled(name, spec)
    stored = _stored_scales(model_path)
    scales = tuple(_scales_of(number, stored) for number in _attention_layer_numbers(spec))
    return CacheCoding(CACHE_FORMATS[name], scales, from_checkpoint=bool(stored))


def _attention_layer_numbers(spec: ModelSpec) -> list[int]:
    return [
        number
        for number, layer in enumerate(spec.decoder.layers)
        for block in layer.blocks
        for branch in block.branches
        if isinstance(branch.mixer, Attention | LatentAttention)
    ]


def _scales_of(number: int, stored: dict[tuple[int, str], float]) -> CacheScales:
    both = stored.get((number, "kv"), 1.0)
    return CacheScales(stored.get((number, "k"), both), stored.get((number, "v"), both))


def _stored_scales(model_path: Path) -> dict[tuple[int, str], float]:
    """Return the scales by layer number and side: k, v or kv. GGUF files contain no scales of the
    cache.
    """
    if is_gguf_path(model_path):
        return {}
    tensors = map_checkpoint(model_path)
    try:
        return {
            (int(match[1]), match[2]): _scale(tensor)
            for name, tensor in tensors.items()
            if (match := _NAME.search(name))
        }
    finally:
        close_files(tensors)


def _scale(tensor: MappedTensor) -> float:
    values = float32_array(tensor).flatten().tolist()
    if len(values) != 1:
        raise ModelError(
            f"{tensor.file.path}: tensor `{tensor.stored.name}` contains {len(values)} scales of"
            " the KV cache, but one scale per layer is supported.",
            "Leave `--kv-cache-dtype` out, or use `--kv-cache-dtype int8`, which needs no scales.",
        )
    if not (math.isfinite(values[0]) and values[0] > 0):
        raise ModelError(
            f"{tensor.file.path}: tensor `{tensor.stored.name}` is {values[0]}, but a scale of the"
            " KV cache must be a positive finite number.",
            "Leave `--kv-cache-dtype` out, or use `--kv-cache-dtype int8`, which needs no scales.",
        )
    return float(values[0])
