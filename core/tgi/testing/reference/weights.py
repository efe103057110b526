"""Reads a safetensors checkpoint into numpy arrays by parameter name, for the numpy reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from tgi.architectures.checkpoint import StoredTensor, read_header
from tgi.architectures.spec import ModelSpec
from tgi.architectures.weight_map import placements, split, tensor_shapes
from tgi.errors import ModelError

__all__ = ["read_weights", "tensor_names"]

_DTYPES: Mapping[str, npt.DTypeLike] = MappingProxyType(
    {
        f"{kind}{8 * size}": f"<{kind.lower()}{size}"
        for kind in "FIU"
        for size in (1, 2, 4, 8)
        if kind != "F" or size > 1
    }
    | {"BOOL": "?"}
)
"""Maps the name of a dtype in the file format to the numpy dtype."""


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
    stored, data = read_header(path), path.read_bytes()
    return {name: _array(tensor, data) for name, tensor in stored.items()}


def _array(tensor: StoredTensor, data: bytes) -> npt.NDArray[np.generic]:
    """Return a tensor of the file's bytes `data` in its dtype. numpy has no bfloat16, so bfloat16
    becomes float32: bfloat16 is the upper half of float32.
    """
    own = data[tensor.start : tensor.start + tensor.num_bytes]
    if tensor.dtype == "BF16":
        bits = np.frombuffer(own, "<u2").astype(np.uint32) << 16
        return bits.view(np.float32).reshape(tensor.shape)
    if tensor.dtype not in _DTYPES:
        raise ModelError(
            f"The tensor `{tensor.name}` has the dtype {tensor.dtype}, which numpy does not have.",
            "Choose a checkpoint with floating-point weights.",
        )
    return np.frombuffer(own, _DTYPES[tensor.dtype]).reshape(tensor.shape)
