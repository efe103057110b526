"""Loads the model's parameters from the checkpoint as a tree of arrays on the mesh.

The checkpoint is read one tensor at a time. Host memory contains one tensor of the file, and device
memory contains that tensor and the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, TypeVar, final

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.experimental.layout import Format
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from tgi.architectures import ModelSpec
from tgi.architectures.weight_map import Placement, split, tensor_shapes
from tgi.checkpoints.checkpoint import Checkpoint, open_checkpoint
from tgi.checkpoints.pieces import dequantized
from tgi.worker.checkpoint import file_order
from tgi_tpu.mesh import partition, row_major
from tgi_tpu.model.layer_groups import layer_groups, place_of
from tgi_tpu.weights.fitting import fit, fitted_shape
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

Quantization = Literal["int8"]
"""Weight-only quantization: the matrices of the layers' mixers and an untied head become int8."""

_QUANTIZED_PARTS = frozenset({"q", "k", "v", "o", "gate", "up", "down"})
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


@final
@dataclass(frozen=True)
class _Leaf:
    """Describes one array of the tree. The array may contain a parameter of many layers."""

    shape: tuple[int, ...]
    dtype: jnp.dtype[Any]  # int8 means a `QuantizedMatrix`
    mesh: Mesh
    cut: PartitionSpec

    @property
    def is_quantized(self) -> bool:
        """Whether the array has a scale."""
        return bool(self.dtype == jnp.int8)

    @property
    def format(self) -> Format:
        """The layout and sharding of the values."""
        return row_major(self.mesh, self.cut, len(self.shape))

    @property
    def scale_format(self) -> Format:
        """The layout and sharding of the scale, which does not have the last axis."""
        return row_major(
            self.mesh, PartitionSpec(*self.cut[: len(self.shape) - 1]), len(self.shape) - 1
        )

    @property
    def formats(self) -> Format | QuantizedMatrix:
        """The formats of values and scale, as a tree for JAX."""
        if not self.is_quantized:
            return self.format
        return QuantizedMatrix(self.format, self.scale_format)  # type: ignore[arg-type] # formats instead of arrays


def _leaves(
    spec: ModelSpec, mesh: Mesh, dtype: DTypeLike, quantization: Quantization | None
) -> dict[str, _Leaf]:
    """Describe every array of the tree. The key is the first parameter in the array."""
    groups = layer_groups(spec)
    leaves = {}
    for parameter, shape in tensor_shapes(spec).items():
        key, index = _locate(parameter, spec)
        if key != parameter:
            continue
        own = fitted_shape(parameter, shape, spec, mesh)
        cut = partition(parameter, own, mesh.size, len(index))
        repeats = tuple(groups[place_of(groups, _layer(parameter)).group].repeats for _ in index)
        full = (*repeats, *own)
        leaves[key] = _Leaf(
            full,
            jnp.dtype(jnp.int8 if quantization is not None and _is_quantized(parameter) else dtype),
            mesh,
            cut,
        )
    return leaves


def _layer(parameter: str) -> int:
    return int(parameter.removeprefix(_LAYERS).split(".")[0])


def _locate(parameter: str, spec: ModelSpec) -> tuple[str, tuple[int, ...]]:
    """Return the first parameter of the array that contains `parameter`, and the index of
    `parameter` in this array.
    """
    if not parameter.startswith(_LAYERS):
        return parameter, ()
    groups, layer = layer_groups(spec), _layer(parameter)
    place = place_of(groups, layer)
    first = groups[place.group].first + place.member
    return parameter.replace(f"{_LAYERS}{layer}.", f"{_LAYERS}{first}.", 1), (place.repeat,)


def _is_quantized(parameter: str) -> bool:
    parts = parameter.split(".")
    return parameter == "head.weight" or (
        len(parts) > 3 and parts[-1] == "weight" and parts[-2] in _QUANTIZED_PARTS
    )


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

    def abstract(leaf: _Leaf) -> Any:  # noqa: ANN401 - used in place of an array
        values = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.format)
        if not leaf.is_quantized:
            return values
        scale: Any = jax.ShapeDtypeStruct(leaf.shape[:-1], jnp.float32, sharding=leaf.scale_format)
        return QuantizedMatrix(values, scale)  # type: ignore[arg-type]

    leaves = _leaves(spec, mesh, dtype, quantization)
    return Parameters(
        *_tree(spec, {parameter: abstract(leaf) for parameter, leaf in leaves.items()})
    )


def parameter_bytes(
    spec: ModelSpec, mesh: Mesh, dtype: DTypeLike, quantization: Quantization | None = None
) -> int:
    """Size in bytes of the parameters on one device."""
    arrays = jax.tree.leaves(abstract_parameters(spec, mesh, dtype, quantization))
    return sum(
        int(np.prod(array.sharding.shard_shape(array.shape))) * array.dtype.itemsize
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
        self._leaves = _leaves(spec, mesh, dtype, quantization)
        self._arrays: dict[str, Weight] = {}

    def write(self, parameter: str, piece: Array, expert: int | None = None) -> None:
        """Store `piece` as `parameter`, or as one expert's slice of `parameter`. `piece` may have
        any floating-point dtype.
        """
        key, index = _locate(parameter, self._spec)
        leaf = self._leaves[key]
        piece = fit(parameter, piece, self._spec, self._mesh)
        if not leaf.is_quantized:
            piece = piece.astype(leaf.dtype, copy=False)
        piece = np.ascontiguousarray(piece)
        if piece.size == math.prod(leaf.shape):
            whole = jax.device_put(piece.reshape(leaf.shape), leaf.format)
            self._arrays[key] = _program(quantize, leaf)(whole) if leaf.is_quantized else whole
            return
        index = index if expert is None else (*index, expert)
        # The axes of the piece are the last axes of the array.
        cut = [*leaf.cut, *[None] * len(leaf.shape)][len(index) : len(leaf.shape)]
        on_device = jax.device_put(piece, NamedSharding(self._mesh, PartitionSpec(*cut)))
        array = self._arrays.pop(key) if key in self._arrays else _maker(leaf)()
        self._arrays[key] = _program(_insert, leaf)(array, on_device, np.asarray(index, np.int32))

    def finish(self) -> Parameters:
        """Return the tree. All parameters must have been written."""
        assert self._arrays.keys() == self._leaves.keys(), "a parameter was not written"
        return Parameters(*_tree(self._spec, self._arrays))


@lru_cache(maxsize=256)
def _program(function: Callable[..., Weight], leaf: _Leaf) -> Callable[..., Weight]:
    """Compile `function` so that its result has the format of `leaf`.

    `_insert` donates its argument `array`.
    """
    return jax.jit(
        function, out_shardings=leaf.formats, donate_argnums=(0,) if function is _insert else ()
    )


@lru_cache(maxsize=256)
def _maker(leaf: _Leaf) -> Callable[[], Weight]:
    """Compile a function that creates the array, filled with zeros."""
    return jax.jit(partial(_zeros, leaf), out_shardings=leaf.formats)


def _zeros(leaf: _Leaf) -> Weight:
    values = jnp.zeros(leaf.shape, leaf.dtype)
    return (
        QuantizedMatrix(values, jnp.zeros(leaf.shape[:-1], jnp.float32))
        if leaf.is_quantized
        else values
    )


def _insert(array: Weight, piece: jax.Array, index: jax.Array) -> Weight:
    """Return `array` with `piece` at `index` of its first axes."""
    taken = quantize(piece) if isinstance(array, QuantizedMatrix) else piece
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
