"""Describes the arrays of a model on the mesh: shapes, dtypes, layouts and shardings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, final

import jax.numpy as jnp
from jax.experimental.layout import Format
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike

from tgi.architectures import ModelSpec
from tgi.architectures.weight_map import tensor_shapes
from tgi_tpu.mesh import AXIS, matrix_cuts, partition, row_major
from tgi_tpu.model.layer_groups import array_of, layer_groups, place_of
from tgi_tpu.weights.fitting import fitted_shape
from tgi_tpu.weights.matrix_formats import INT8, CheckpointFormats, MatrixFormat, is_quantizable
from tgi_tpu.weights.quantized import GroupedMatrix, QuantizedMatrix, Weight

__all__ = ["Leaf", "Quantization", "leaves_of"]

Quantization = Literal["int8"] | CheckpointFormats
"""`int8` rounds the matrices of the layers' mixers and an untied head to int8. The weights of a
quantized checkpoint have the formats of the checkpoint.
"""

MakeArray = Callable[[tuple[int, ...], Any, PartitionSpec], Any]
"""A function of the shape, the dtype and the division among the devices."""


@final
@dataclass(frozen=True)
class Leaf:
    """Describes the array of a parameter, or the arrays of a quantized matrix. An array may contain
    a parameter of many layers.

    `shape` is [..., outputs, inputs] for matrices. `dtype` is the dtype of weights that are not
    quantized.
    """

    shape: tuple[int, ...]
    dtype: Any
    mesh: Mesh
    cut: PartitionSpec
    form: MatrixFormat | None = None

    def build(self, make: MakeArray) -> Weight:
        """Return the weight in which `make` creates each array."""
        form = self.form
        if form is None:
            return make(self.shape, self.dtype, self.cut)  # type: ignore[no-any-return]
        *leading, num_outputs, num_inputs = self.shape
        if not form.is_grouped:
            scale = make(
                self.shape[:-1], jnp.float32, PartitionSpec(*self.cut[: len(self.shape) - 1])
            )
            return QuantizedMatrix(make(self.shape, jnp.dtype(form.dtype), self.cut), scale)
        of_values, of_scale = matrix_cuts(self.cut, len(leading))
        size = self.group_inputs
        groups = num_inputs // size
        per_group = partial(make, (*leading, groups, num_outputs))
        return GroupedMatrix(
            make((*leading, groups, size, num_outputs), jnp.dtype(form.dtype), of_values),
            per_group(jnp.dtype(form.scale_dtype), of_scale),
            per_group(jnp.int8, of_scale) if form.has_zeros else None,
            per_group(jnp.float32, of_scale) if form.has_offsets else None,
            form.zero,
        )

    @property
    def group_inputs(self) -> int:
        """Inputs of a group on the devices. A group of the checkpoint is divided into several
        groups if it is not a divisor of the inputs on each device.
        """
        num_inputs = self.shape[-1]
        is_cut = len(self.cut) == len(self.shape) and self.cut[-1] == AXIS
        on_device = num_inputs // self.mesh.size if is_cut else num_inputs
        group = None if self.form is None else self.form.group
        return on_device if group is None else math.gcd(group, on_device)

    @property
    def formats(self) -> Any:  # noqa: ANN401 - a tree of formats in place of arrays
        """The layout and sharding of each array."""

        def make(shape: tuple[int, ...], dtype: object, cut: PartitionSpec) -> Format:
            del dtype
            return row_major(self.mesh, cut, len(shape))

        return self.build(make)


def leaves_of(
    spec: ModelSpec, mesh: Mesh, dtype: DTypeLike, quantization: Quantization | None
) -> dict[str, Leaf]:
    """Describe every array of the model. The key is the first parameter in the array."""
    groups = layer_groups(spec)
    leaves = {}
    for parameter, shape in tensor_shapes(spec).items():
        key, index = array_of(parameter, spec)
        if key != parameter:
            continue
        own = fitted_shape(parameter, shape, spec, mesh)
        cut = partition(parameter, own, mesh.size, len(index))
        repeats: tuple[int, ...] = ()
        if index:
            layer = int(parameter.split(".")[2])
            repeats = (groups[place_of(groups, layer).group].repeats,)
        form = _form_of(parameter, quantization)
        leaves[key] = Leaf((*repeats, *own), jnp.dtype(dtype), mesh, cut, form)
    return leaves


def _form_of(parameter: str, quantization: Quantization | None) -> MatrixFormat | None:
    if isinstance(quantization, CheckpointFormats):
        return quantization.by_parameter.get(parameter)
    return INT8 if quantization == "int8" and is_quantizable(parameter) else None
