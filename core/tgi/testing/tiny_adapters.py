"""Writes, reads and merges LoRA adapters (arXiv 2106.09685) in PEFT's format, for tiny models.

A folder contains `adapter_config.json` and `adapter_model.safetensors` with two matrices for each
linear layer: A [rank, in] and B [out, rank]. The layer's weight becomes W + alpha / rank x B A.
With `use_rslora` the factor is alpha / sqrt(rank).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tgi.architectures.spec import ModelSpec
from tgi.architectures.weight_map import placements, split, stored_shape
from tgi.errors import ModelError
from tgi.testing.reference.model import Weights

__all__ = ["Adapter", "merge_adapter", "read_adapter", "write_adapter"]

_PREFIX = "base_model.model."
_FACTORS = (".lora_A.weight", ".lora_B.weight")
Float32Array = npt.NDArray[np.float32]


class _AdapterConfig(msgspec.Struct, frozen=True):
    """The fields of `adapter_config.json` that affect the result."""

    r: int
    lora_alpha: float
    use_rslora: bool = False


@final
@dataclass(frozen=True)
class Adapter:
    """The changes that an adapter makes to a model."""

    rank: int
    # Maps the name of the checkpoint's tensor, without `.weight`, to an array [out, in].
    deltas: Mapping[str, Float32Array]


def write_adapter(
    path: Path,
    spec: ModelSpec,
    names: Sequence[str],
    *,
    targets: Sequence[str] = ("q_proj", "v_proj"),
    rank: int = 4,
    seed: int = 1,
) -> Path:
    """Write a random adapter for the layers whose names end with one of `targets`.

    `names` are the checkpoint's tensors. The factors are large enough to change most tokens of a
    tiny model. Returns the adapter's folder.
    """
    path.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    tensors: dict[str, Float32Array] = {}
    for placement in placements(spec, names):
        layer = placement.name.removesuffix(".weight")
        if layer.rpartition(".")[2] in targets:
            shape = stored_shape(placement)
            out, size = reversed(shape) if placement.rule.transposed else shape
            factors = (
                generator.standard_normal((rank, size)),
                generator.standard_normal((out, rank)),
            )
            tensors |= {
                f"{_PREFIX}{layer}{end}": (0.3 * f).astype(np.float32)
                for end, f in zip(_FACTORS, factors, strict=True)
            }
    save_file(tensors, path / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": list(targets),
        "bias": "none",
    }
    (path / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return path


def read_adapter(path: Path) -> Adapter:
    """Read an adapter's folder. Raises `ModelError` with the name of the wrong file or tensor."""
    config_file, weight_file = path / "adapter_config.json", path / "adapter_model.safetensors"
    try:
        config = msgspec.json.decode(config_file.read_bytes(), type=_AdapterConfig)
        tensors = load_file(weight_file)
    except (OSError, msgspec.MsgspecError, SafetensorError) as error:
        raise ModelError(
            f"The adapter `{path}` cannot be read: {error}.", "Check its two files."
        ) from error
    scale = config.lora_alpha / (np.sqrt(config.r) if config.use_rslora else config.r)
    deltas = {}
    for name in sorted(
        {name.removesuffix(_FACTORS[0]).removesuffix(_FACTORS[1]) for name in tensors}
    ):
        missing = [name + end for end in _FACTORS if name + end not in tensors]
        if missing:
            raise ModelError(
                f"The adapter `{weight_file}` has no tensor `{missing[0]}`.",
                "Save it again with PEFT.",
            )
        a, b = (tensors[name + end].astype(np.float32) for end in _FACTORS)
        deltas[name.removeprefix(_PREFIX)] = np.float32(scale) * (b @ a)
    return Adapter(config.r, deltas)


def merge_adapter(
    spec: ModelSpec, weights: Weights, names: Sequence[str], adapter: Adapter
) -> dict[str, Float32Array]:
    """Return the weights with the adapter added. `names` are the tensors of the checkpoint.

    Raises `ModelError` if the model does not have a layer that the adapter changes, or if the layer
    has another shape.
    """
    merged = dict(weights)
    placed = {
        placement.name.removesuffix(".weight"): placement for placement in placements(spec, names)
    }
    for layer, delta in adapter.deltas.items():
        if layer not in placed:
            raise ModelError(
                f"The adapter changes `{layer}`, which the model does not have.",
                "Choose an adapter for this model.",
            )
        stored = delta.T if placed[layer].rule.transposed else delta
        for parameter, piece in split(stored, placed[layer], spec).items():
            merged[parameter] = merged[parameter] + piece
    return merged
