"""Tensor parallelism over one axis of devices: assigns a part of each parameter to each device."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental.layout import Format, Layout
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tgi.architectures.weight_map import shard_axis
from tgi.backend import BackendError

__all__ = [
    "AXIS",
    "make_mesh",
    "matrix_cuts",
    "mesh_of",
    "partition",
    "replicated",
    "row_major",
    "sharding",
]

AXIS = "tp"
"""The only axis of the mesh."""


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """Create a mesh of all `devices`, in their order."""
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def make_mesh(num_shard: int, platform: str) -> Mesh:
    """Create a mesh of the first `num_shard` devices of a platform (`cpu`, `tpu`).

    Raises `BackendError` if the platform has fewer devices.
    """
    devices = jax.devices(platform)
    if len(devices) < num_shard:
        raise BackendError(
            f"{num_shard} shards were requested, but JAX finds {len(devices)} {platform} devices.",
            f"Set --num-shard to {len(devices)} or less.",
        )
    return mesh_of(devices[:num_shard])


def partition(
    parameter: str, shape: Sequence[int], tp_size: int, leading: int = 0
) -> PartitionSpec:
    """Return the division of `parameter` with this `shape` among the devices.

    The array begins with `leading` additional axes, which are not divided. If the number of devices
    does not divide the size, every device has the whole parameter.
    """
    axis = shard_axis(parameter)
    if axis is None or shape[axis] % tp_size:
        return PartitionSpec()
    return PartitionSpec(*[None] * (leading + axis), AXIS)


def matrix_cuts(cut: PartitionSpec, num_leading: int) -> tuple[PartitionSpec, PartitionSpec]:
    """Return the divisions of a matrix whose inputs are divided into groups.

    `cut` is the division of [..., outputs, inputs] with `num_leading` leading axes, which are not
    divided. The first result is for values [..., groups, inputs of a group, outputs], and the
    second result is for scales [..., groups, outputs].
    """
    leading = [None] * num_leading
    padded = [*cut, *[None] * (num_leading + 2 - len(cut))]
    of_outputs, of_inputs = padded[num_leading:]
    return (
        PartitionSpec(*leading, of_inputs, None, of_outputs),
        PartitionSpec(*leading, of_inputs, of_outputs),
    )


def sharding(mesh: Mesh, *axes: str | None) -> NamedSharding:
    """Create a sharding over `mesh`. Each axis is `AXIS` or None."""
    return NamedSharding(mesh, PartitionSpec(*axes))


def row_major(mesh: Mesh, cut: PartitionSpec, num_axes: int) -> Format:
    """Return a format with the division `cut` and the last axis innermost.

    Without this format, the compiler chooses layouts of a program's inputs that minimize padding.
    If the program needs another layout internally, the input is copied in every step.
    """
    return Format(Layout(tuple(range(num_axes))), NamedSharding(mesh, cut))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return a sharding in which every device has the whole array."""
    return sharding(mesh)
