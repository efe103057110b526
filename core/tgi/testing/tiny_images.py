"""The smallest model that sees: a tiny decoder with one matrix that turns pixels into embeddings.

An image is [length, patch_size] numbers; placeholder i is read as row i times the matrix. The
matrix lies beside the decoder's checkpoint, in a folder that loaders of the decoder do not look at.
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
    """Give the model in `model_path` a random matrix [PATCH_SIZE, hidden_size]."""
    file = model_path / _FILE
    file.parent.mkdir(exist_ok=True)
    matrix = (
        np.random.default_rng(seed).standard_normal((PATCH_SIZE, hidden_size)).astype(np.float32)
    )
    save_file({"projector.weight": matrix}, file)


def read_projector(model_path: Path) -> Float32Array | None:
    """The matrix, or None where the model is blind."""
    file = model_path / _FILE
    matrix: npt.NDArray[np.float32] | None = (
        load_file(file)["projector.weight"] if file.exists() else None
    )
    return matrix


def image_of(start: int, length: int, seed: int = 0) -> MediaInput:
    """A random image for `length` placeholders from position `start` on."""
    pixels = (
        np.random.default_rng([seed, length])
        .standard_normal((length, PATCH_SIZE))
        .astype(np.float32)
    )
    return MediaInput("image", start, length, pixels)


def image_vectors(projector: Float32Array, media: Sequence[MediaInput]) -> dict[int, Float32Array]:
    """What the model reads at the placeholders: position → [hidden_size]."""
    return {
        item.start + place: vector
        for item in media
        for place, vector in enumerate(item.pixels.reshape(item.length, PATCH_SIZE) @ projector)
    }
