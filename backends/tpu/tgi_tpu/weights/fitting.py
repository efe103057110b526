"""Pads or repeats parameters so that they can be divided among the devices.

The results of the model do not change. If a size is not a multiple of the number of devices, it is
padded with zeros. Heads are repeated if there are fewer heads than devices. A TPU stores the last
axis of an array in registers of 128 lanes. If the last axis fills its registers only partly, the
layout of the array may differ from the layout that a program needs. The array is then copied in
every step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh

from tgi.architectures import MLP, Attention, MixtureOfExperts, ModelSpec
from tgi.architectures.parameter_names import mixer_of
from tgi_tpu.coverage import kv_repeats

__all__ = ["fit", "fit_rows", "fitted_shape", "padded", "padded_head_dim"]

_TPU_LANES = 128

Array = npt.NDArray[Any]


def padded(size: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is not less than `size`."""
    return -(-size // multiple) * multiple


def padded_head_dim(head_dim: int, mesh: Mesh) -> int:
    """Return the number of values of a head in the cache, including padding."""
    return padded(head_dim, _lanes(mesh))


def _lanes(mesh: Mesh) -> int:
    return _TPU_LANES if mesh.devices.flat[0].platform == "tpu" else 1


def fitted_shape(
    parameter: str, shape: tuple[int, ...], spec: ModelSpec, mesh: Mesh
) -> tuple[int, ...]:
    """Return the shape of a parameter after `fit`."""
    mixer = _with_kv_heads(parameter, spec)
    if mixer is not None:
        return (shape[0] * kv_repeats(mixer, mesh.size), *shape[1:])
    axis = _intermediate_axis(parameter, spec)
    if axis is None:
        return shape
    sizes = list(shape)
    sizes[axis] = padded(sizes[axis], mesh.size * _lanes(mesh))
    return tuple(sizes)


def fit(parameter: str, piece: Array, spec: ModelSpec, mesh: Mesh) -> Array:
    """Fit a parameter, or one expert's part of it, to the mesh."""
    mixer = _with_kv_heads(parameter, spec)
    if mixer is not None and kv_repeats(mixer, mesh.size) > 1:
        by_head = piece.reshape(mixer.num_kv_heads, -1, *piece.shape[1:])
        return by_head.repeat(kv_repeats(mixer, mesh.size), axis=0).reshape(-1, *piece.shape[1:])
    axis = _intermediate_axis(parameter, spec)
    if axis is None:
        return piece
    size = piece.shape[axis]
    missing = [(0, 0)] * piece.ndim
    missing[axis] = (0, padded(size, mesh.size * _lanes(mesh)) - size)
    return np.pad(piece, missing) if missing[axis][1] else piece


def fit_rows(parameter: str, piece: Array, spec: ModelSpec, mesh: Mesh) -> Array:
    """Fit an array with one row per output of a matrix, for example its scales."""
    is_cut_by_inputs = _intermediate_axis(parameter, spec) == -1
    return piece if is_cut_by_inputs else fit(parameter, piece, spec, mesh)


def _with_kv_heads(parameter: str, spec: ModelSpec) -> Attention | None:
    """Return the attention mixer whose key or value heads are rows of `parameter`, or None."""
    mixer, part = mixer_of(parameter, spec), parameter.split(".")[-2]
    if not isinstance(mixer, Attention):
        return None
    is_norm_of_heads = part == "k_norm" and mixer.qk_norm_over != "head"
    return mixer if part in {"k", "v"} or is_norm_of_heads else None


def _intermediate_axis(parameter: str, spec: ModelSpec) -> int | None:
    """Return the axis of an MLP's intermediate values, counted from the end, or None.

    Every activation function maps the zeros of the padding on this axis to zeros.
    """
    if not isinstance(mixer_of(parameter, spec), MLP | MixtureOfExperts):
        return None
    part, kind = parameter.split(".")[-2:]
    if part in {"gate", "up"}:
        return -2 if kind == "weight" else -1
    return -1 if (part, kind) == ("down", "weight") else None
