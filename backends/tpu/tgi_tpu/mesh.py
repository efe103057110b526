"""Tensor parallelism over one axis of devices: which part of a parameter each device holds."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental.layout import Format, Layout
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tgi.architectures.weight_map import shard_axis
from tgi.backend import BackendError

__all__ = ["AXIS", "make_mesh", "mesh_of", "partition", "replicated", "row_major", "sharding"]

AXIS = "tp"
"""The mesh's one axis."""


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """A mesh over all of `devices`, in their order."""
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def make_mesh(num_shard: int, platform: str) -> Mesh:
    """A mesh over the first `num_shard` devices of a platform (`cpu`, `tpu`). Raises `BackendError`
    if there are fewer.
    """
    devices = jax.devices(platform)
    if len(devices) < num_shard:
        raise BackendError(
            f"{num_shard} shards were asked for, but JAX sees {len(devices)} {platform} devices.",
            f"Set --num-shard to {len(devices)} or less.",
        )
    return mesh_of(devices[:num_shard])


def partition(
    parameter: str, shape: Sequence[int], tp_size: int, leading: int = 0
) -> PartitionSpec:
    """How a parameter of `parameter` and `shape` is cut, behind `leading` axes in front of it that
    are not.

    A size that the devices do not divide is not cut: every device then holds all of it.
    """
    axis = shard_axis(parameter)
    if axis is None or shape[axis] % tp_size:
        return PartitionSpec()
    return PartitionSpec(*[None] * (leading + axis), AXIS)


def sharding(mesh: Mesh, *axes: str | None) -> NamedSharding:
    """A sharding over `mesh`; an axis is `AXIS` or None."""
    return NamedSharding(mesh, PartitionSpec(*axes))


def row_major(mesh: Mesh, cut: PartitionSpec, num_axes: int) -> Format:
    """Cut so, and laid out with the last axis innermost.

    Left to itself the compiler chooses the layout of a program's inputs by how little it has to pad
    them, and copies in every step what it then wants otherwise.
    """
    return Format(Layout(tuple(range(num_axes))), NamedSharding(mesh, cut))


def replicated(mesh: Mesh) -> NamedSharding:
    """All of it on every device."""
    return sharding(mesh)
