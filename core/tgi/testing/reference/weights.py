"""Reads a safetensors checkpoint into numpy arrays by parameter name, for the numpy reference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tgi.architectures.checkpoint import read_header
from tgi.architectures.spec import ModelSpec
from tgi.architectures.weight_map import Placement, placements, split, tensor_shapes
from tgi.checkpoints.checkpoint import Checkpoint, open_checkpoint
from tgi.checkpoints.pieces import check_quantized_shape, dequantized
from tgi.checkpoints.safetensors_file import float32_array

__all__ = ["read_weights", "tensor_names"]

Float32Array = npt.NDArray[np.float32]


def read_weights(spec: ModelSpec, model_path: Path) -> dict[str, Float32Array]:
    """Read all parameters in float32. Quantized weights are dequantized. Raises `ModelError` as
    `placements` and `split` do.
    """
    shapes = tensor_shapes(spec)
    weights: dict[str, Float32Array] = {}
    with open_checkpoint(model_path) as checkpoint:
        todo = placements(spec, checkpoint.tensors.shapes.keys(), checkpoint.is_zero)
        for placement in todo:
            for parameter, expert, piece in _pieces(checkpoint, placement, spec):
                array = piece.astype(np.float32)
                if placement.rule.unit_rows:
                    array /= np.linalg.norm(array, axis=-1, keepdims=True)
                if expert is None:
                    weights[parameter] = array
                else:
                    weights.setdefault(parameter, np.empty(shapes[parameter], np.float32))[
                        expert
                    ] = array
    return weights


def _pieces(
    checkpoint: Checkpoint, placement: Placement, spec: ModelSpec
) -> Iterator[tuple[str, int | None, Float32Array]]:
    """Read one tensor. Yields (parameter, expert, weights)."""
    tensor = checkpoint.tensors.quantized.get(placement.name)
    if tensor is None:
        array = float32_array(checkpoint.mapped[placement.name])
        for parameter, piece in split(array, placement, spec).items():
            yield parameter, placement.expert, piece
        return
    check_quantized_shape(tensor.shape, placement)
    yield from dequantized(checkpoint, placement, spec)


def tensor_names(model_path: Path) -> list[str]:
    """The names of the checkpoint's tensors in all its files. Raises `ModelError`."""
    return sorted(name for path in model_path.glob("*.safetensors") for name in read_header(path))
