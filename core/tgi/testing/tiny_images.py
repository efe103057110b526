"""A tiny model that accepts images: a tiny decoder with a matrix from pixels to embeddings.

An image is an array [length, patch_size]. The product of row i and the matrix replaces the
embedding of placeholder i. The matrix is stored in a subfolder of the checkpoint that loaders of
the decoder do not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from tgi.backend import Float32Array, MediaInput

__all__ = ["PATCH_SIZE", "image_of", "image_vectors", "read_projector", "write_projector"]

PATCH_SIZE = 6
_FILE = Path("image_projector", "model.safetensors")


def write_projector(model_path: Path, hidden_size: int, seed: int = 0) -> None:
    """Write a random matrix [PATCH_SIZE, hidden_size] for the model in `model_path`."""
    file = model_path / _FILE
    file.parent.mkdir(exist_ok=True)
    matrix = (
        np.random.default_rng(seed).standard_normal((PATCH_SIZE, hidden_size)).astype(np.float32)
    )
    save_file({"projector.weight": matrix}, file)


def read_projector(model_path: Path) -> Float32Array | None:
    """Read the matrix. Returns None if the model does not accept images."""
    file = model_path / _FILE
    matrix: npt.NDArray[np.float32] | None = (
        load_file(file)["projector.weight"] if file.exists() else None
    )
    return matrix


def image_of(start: int, length: int, seed: int = 0) -> MediaInput:
    """A random image for `length` placeholders, beginning at position `start`."""
    pixels = (
        np.random.default_rng([seed, length])
        .standard_normal((length, PATCH_SIZE))
        .astype(np.float32)
    )
    return MediaInput("image", start, length, pixels)


def image_vectors(projector: Float32Array, media: Sequence[MediaInput]) -> dict[int, Float32Array]:
    """Return the embedding [hidden_size] of each placeholder position."""
    return {
        item.start + place: vector
        for item in media
        for place, vector in enumerate(item.pixels.reshape(item.length, PATCH_SIZE) @ projector)
    }
