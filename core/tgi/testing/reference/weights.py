"""Reads a safetensors checkpoint into numpy arrays by parameter name, for the numpy reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from tgi.architectures.spec import ModelSpec
from tgi.architectures.weight_map import placements, split, tensor_shapes
from tgi.errors import ModelError

__all__ = ["read_weights", "tensor_names"]


def read_weights(spec: ModelSpec, model_path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Read all parameters in float32. Raises `ModelError` as `placements` and `split` do."""
    tensors = {
        name: tensor
        for path in sorted(model_path.glob("*.safetensors"))
        for name, tensor in _read(path).items()
    }
    shapes = tensor_shapes(spec)
    weights: dict[str, npt.NDArray[np.float32]] = {}
    for placement in placements(spec, tensors, lambda name: not tensors[name].any()):
        dtype = tensors[placement.name].dtype
        if dtype.kind in "iub":
            raise ModelError(
                f"The tensor `{placement.name}` contains {dtype}, not weights.",
                "Choose a checkpoint with floating-point weights.",
            )
        for parameter, piece in split(tensors[placement.name], placement, spec).items():
            array = piece.astype(np.float32)
            if placement.rule.unit_rows:
                array /= np.linalg.norm(array, axis=-1, keepdims=True)
            if placement.expert is None:
                weights[parameter] = array
            else:
                weights.setdefault(parameter, np.empty(shapes[parameter], np.float32))[
                    placement.expert
                ] = array
    return weights


def tensor_names(model_path: Path) -> list[str]:
    """The names of the checkpoint's tensors in all its files. Raises `ModelError`."""
    return sorted(name for path in model_path.glob("*.safetensors") for name in _read(path))


def _read(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"The weight file `{path}` cannot be read: {error}.", "Download it again."
        ) from error
