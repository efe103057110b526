"""Loads the model's parameters from the checkpoint as a tree of arrays on the mesh.

The checkpoint is read one tensor at a time. Host memory contains one tensor of the file, and device
memory contains that tensor and the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar, final

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from tgi.architectures import ModelSpec
from tgi.architectures.weight_map import Placement, split
from tgi.checkpoints.checkpoint import Checkpoint, open_checkpoint
from tgi.checkpoints.pieces import dequantized
from tgi.checkpoints.quantized import QuantizedMatrix as CanonicalMatrix
from tgi.worker.checkpoint import file_order
from tgi_tpu.mesh import row_major
from tgi_tpu.model.layer_groups import array_of, layer_groups
from tgi_tpu.weights.canonical import arrays_of, whole_matrices
from tgi_tpu.weights.fitting import fit
from tgi_tpu.weights.leaves import Leaf, Quantization, leaves_of
from tgi_tpu.weights.mapped_tensors import tensor_view
from tgi_tpu.weights.quantized import QuantizedMatrix, Weight, quantize

__all__ = [
    "ParameterStore",
    "Parameters",
    "Progress",
    "Quantization",
    "abstract_parameters",
    "load",
    "parameter_bytes",
]

LeafT = TypeVar("LeafT")

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]
"""A function that is called with the number of bytes that were loaded, and the total."""

_LAYERS = "decoder.layers."


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Parameters:
    """The arrays by parameter name.

    A layer group is a pattern of layers that is repeated (`layer_groups`). For each layer of the
    pattern, the parameters of all repeats are stacked along the first axis, as [repeats, ...]. The
    names of these parameters do not include the prefix `decoder.layers.{i}.`.
    """

    outside: dict[str, Weight]
    # `groups[g][m]` contains the arrays of layer `m` in the pattern of group `g`.
    groups: tuple[tuple[dict[str, Weight], ...], ...]


def _tree(
    spec: ModelSpec, leaves: Mapping[str, LeafT]
) -> tuple[dict[str, LeafT], tuple[tuple[dict[str, LeafT], ...], ...]]:
    """Build the fields of `Parameters`."""

    def member(first: int) -> dict[str, LeafT]:
        prefix = f"{_LAYERS}{first}."
        return {
            parameter.removeprefix(prefix): leaf
            for parameter, leaf in leaves.items()
            if parameter.startswith(prefix)
        }

    outside = {
        parameter: leaf for parameter, leaf in leaves.items() if not parameter.startswith(_LAYERS)
    }
    groups = tuple(
        tuple(member(group.first + i) for i in range(len(group.pattern)))
        for group in layer_groups(spec)
    )
    return outside, groups


def abstract_parameters(
    spec: ModelSpec, mesh: Mesh, dtype: DTypeLike, quantization: Quantization | None = None
) -> Parameters:
    """Return the tree with `jax.ShapeDtypeStruct` in place of arrays.

    Such a tree is sufficient to compile for devices that this machine does not have, and to count
    bytes.
    """

    def abstract(leaf: Leaf) -> Weight:
        def make(shape: tuple[int, ...], dtype: Any, cut: PartitionSpec) -> jax.ShapeDtypeStruct:  # noqa: ANN401 - any dtype
            return jax.ShapeDtypeStruct(shape, dtype, sharding=row_major(mesh, cut, len(shape)))

        return leaf.build(make)

    leaves = leaves_of(spec, mesh, dtype, quantization)
    return Parameters(
        *_tree(spec, {parameter: abstract(leaf) for parameter, leaf in leaves.items()})
    )


def parameter_bytes(
    spec: ModelSpec, mesh: Mesh, dtype: DTypeLike, quantization: Quantization | None = None
) -> int:
    """Size in bytes of the parameters on one device."""
    arrays = jax.tree.leaves(abstract_parameters(spec, mesh, dtype, quantization))
    return sum(
        math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
        for array in arrays
    )


@final
class ParameterStore:
    """Arrays that are filled parameter by parameter. Each array is created at its first `write`."""

    def __init__(
        self,
        spec: ModelSpec,
        mesh: Mesh,
        dtype: DTypeLike,
        quantization: Quantization | None = None,
    ) -> None:
        self._spec = spec
        self._mesh = mesh
        self._leaves = leaves_of(spec, mesh, dtype, quantization)
        self._arrays: dict[str, Weight] = {}

    def write(self, parameter: str, piece: Array, expert: int | None = None) -> None:
        """Store `piece` as `parameter`, or as one expert's slice of `parameter`. `piece` may have
        any floating-point dtype.
        """
        key, index = array_of(parameter, self._spec)
        leaf = self._leaves[key]
        piece = fit(parameter, piece, self._spec, self._mesh)
        if leaf.form is None:
            piece = piece.astype(leaf.dtype, copy=False)
        piece = np.ascontiguousarray(piece)
        if piece.size == math.prod(leaf.shape):
            plain = replace(leaf, form=None)
            whole = jax.device_put(piece.reshape(leaf.shape), plain.formats)
            self._arrays[key] = whole if leaf.form is None else _program(quantize, leaf)(whole)
            return
        index = index if expert is None else (*index, expert)
        # The axes of the piece are the last axes of the array.
        cut = [*leaf.cut, *[None] * len(leaf.shape)][len(index) : len(leaf.shape)]
        on_device = jax.device_put(piece, NamedSharding(self._mesh, PartitionSpec(*cut)))
        self._insert(key, on_device, index)

    def write_quantized(
        self, parameter: str, matrix: CanonicalMatrix, expert: int | None = None
    ) -> None:
        """Store a quantized matrix as `parameter`, or as one expert's slice of `parameter`. The
        matrix is dequantized if the parameter has no quantized format.
        """
        key, index = array_of(parameter, self._spec)
        leaf = self._leaves[key]
        if leaf.form is None:
            self.write(parameter, matrix.dequantize(), expert)
            return
        index = index if expert is None else (*index, expert)
        cut = PartitionSpec(*leaf.cut[len(index) :])
        one = replace(leaf, shape=leaf.shape[len(index) :], cut=cut)
        arrays = arrays_of(parameter, matrix, self._spec, one)
        on_device = jax.tree.map(jax.device_put, arrays, one.formats)
        if index:
            self._insert(key, on_device, index)
        else:
            self._arrays[key] = on_device

    def _insert(self, key: str, piece: Weight, index: tuple[int, ...]) -> None:
        leaf = self._leaves[key]
        array = self._arrays.pop(key) if key in self._arrays else _maker(leaf)()
        self._arrays[key] = _program(_inserted, leaf)(array, piece, np.asarray(index, np.int32))

    def finish(self) -> Parameters:
        """Return the tree. All parameters must have been written."""
        assert self._arrays.keys() == self._leaves.keys(), "a parameter was not written"
        return Parameters(*_tree(self._spec, self._arrays))


@lru_cache(maxsize=256)
def _program(function: Callable[..., Weight], leaf: Leaf) -> Callable[..., Weight]:
    """Compile `function` so that its result has the format of `leaf`.

    `_inserted` donates its argument `array`.
    """
    donated = (0,) if function is _inserted else ()
    return jax.jit(function, out_shardings=leaf.formats, donate_argnums=donated)


@lru_cache(maxsize=256)
def _maker(leaf: Leaf) -> Callable[[], Weight]:
    """Compile a function that creates the array, filled with zeros."""
    zeros = partial(leaf.build, lambda shape, dtype, cut: jnp.zeros(shape, dtype))
    return jax.jit(zeros, out_shardings=leaf.formats)


def _inserted(array: Weight, piece: Weight, index: jax.Array) -> Weight:
    """Return `array` with `piece` at `index` of its first axes."""
    is_rounded = isinstance(array, QuantizedMatrix) and isinstance(piece, jax.Array)
    taken = quantize(piece) if is_rounded else piece
    filled: Weight = jax.tree.map(partial(_insert_one, index), array, taken)
    return filled


def _insert_one(index: jax.Array, array: jax.Array, piece: jax.Array) -> jax.Array:
    num_leading = array.ndim - piece.ndim
    starts = jnp.concatenate([index, jnp.zeros(piece.ndim, jnp.int32)])
    return jax.lax.dynamic_update_slice(
        array, piece.reshape((1,) * num_leading + piece.shape), list(starts)
    )


def load(
    spec: ModelSpec,
    model_path: Path,
    mesh: Mesh,
    dtype: DTypeLike,
    *,
    quantization: Quantization | None = None,
    progress: Progress = lambda done, total: None,
) -> Parameters:
    """Read the safetensors files in `model_path` onto the mesh.

    `progress(done_bytes, total_bytes)` is called after every tensor. If the files are damaged or do
    not match the spec, a `ModelError` with the file and the tensor is raised.
    """
    with open_checkpoint(model_path) as checkpoint:
        todo = file_order(spec, checkpoint)
        sizes = {item.name: checkpoint.tensors.num_bytes(item.name) for item in todo}
        total, done = sum(sizes.values()), 0
        store = ParameterStore(spec, mesh, dtype, quantization)
        progress(done, total)
        for placement in todo:
            if placement.name in checkpoint.tensors.quantized and not placement.rule.unit_rows:
                for parameter, expert, matrix in whole_matrices(checkpoint, placement, spec):
                    store.write_quantized(parameter, matrix, expert)
            else:
                for parameter, expert, piece in _pieces(checkpoint, placement, spec):
                    whole = _unit_rows(piece) if placement.rule.unit_rows else piece
                    store.write(parameter, whole, expert)
            done += sizes[placement.name]
            progress(done, total)
        return store.finish()


def _pieces(
    checkpoint: Checkpoint, placement: Placement, spec: ModelSpec
) -> Iterator[tuple[str, int | None, Array]]:
    """Read one tensor. Yields (parameter, expert, weights). Weights of a quantized tensor are
    dequantized to float32. They are yielded as a whole, or one expert at a time.
    """
    if placement.name not in checkpoint.tensors.quantized:
        pieces = split(tensor_view(checkpoint.mapped[placement.name]), placement, spec)
        for parameter, piece in pieces.items():
            yield parameter, placement.expert, piece
        return
    yield from dequantized(checkpoint, placement, spec)


def _unit_rows(piece: Array) -> Array:
    exact = piece.astype(np.float32)
    length: Array = np.linalg.norm(exact, axis=-1, keepdims=True)
    return exact / np.maximum(length, np.float32(1e-12))
