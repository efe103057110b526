"""The paged cache of keys and values, divided among the devices by heads.

All layers whose keys and values have the same shape share one array [L * blocks, B, 2 K, D]. The
blocks of a layer are consecutive, and the heads alternate key, value. A kernel can therefore
address a layer's blocks by their numbers, and no layer is copied out of the array. If there are
fewer heads than devices, heads are stored more than once. Heads may be padded with zeros.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from tgi.architectures import ModelSpec
from tgi_tpu.mesh import AXIS, sharding
from tgi_tpu.model.layer_groups import CacheShape, cache_shapes
from tgi_tpu.weights.fitting import padded_head_dim

__all__ = ["Cache", "abstract_cache", "cache_bytes_per_block", "copy_blocks", "empty_cache"]

Cache = tuple[jax.Array, ...]


def _block_shape(shape: CacheShape, block_size: int, mesh: Mesh) -> tuple[int, int, int]:
    """The shape of one block in one layer, over all devices."""
    return block_size, 2 * max(shape.num_kv_heads, mesh.size), padded_head_dim(shape.head_dim, mesh)


def abstract_cache(
    spec: ModelSpec, num_blocks: int, block_size: int, dtype: DTypeLike, mesh: Mesh
) -> Any:  # noqa: ANN401
    """Return the result of `empty_cache` with `jax.ShapeDtypeStruct` in place of arrays."""
    over_heads = sharding(mesh, None, None, AXIS)
    return tuple(
        jax.ShapeDtypeStruct(
            (len(shape.layers) * num_blocks, *_block_shape(shape, block_size, mesh)),
            jnp.dtype(dtype),
            sharding=over_heads,
        )
        for shape in cache_shapes(spec)
    )


def empty_cache(
    spec: ModelSpec, num_blocks: int, block_size: int, dtype: DTypeLike, mesh: Mesh
) -> Cache:
    """Allocate a cache with `num_blocks` blocks of `block_size` tokens in every layer."""
    abstract = abstract_cache(spec, num_blocks, block_size, dtype, mesh)
    return tuple(jnp.zeros(pages.shape, pages.dtype, device=pages.sharding) for pages in abstract)


def cache_bytes_per_block(spec: ModelSpec, block_size: int, dtype: DTypeLike, mesh: Mesh) -> int:
    """Size in bytes of one block over all layers on one device."""
    values = sum(
        len(shape.layers) * math.prod(_block_shape(shape, block_size, mesh))
        for shape in cache_shapes(spec)
    )
    return values * jnp.dtype(dtype).itemsize // mesh.size


@partial(jax.jit, static_argnames="spec", donate_argnames="cache")
def copy_blocks(spec: ModelSpec, cache: Cache, sources: jax.Array, targets: jax.Array) -> Cache:
    """Copy blocks `sources` int32 [N] to `targets` int32 [N] in every layer.

    A target below 0 is padding. All sources are read before any target is written. The argument
    `cache` is donated.
    """
    copied = []
    for shape, pages in zip(cache_shapes(spec), cache, strict=True):
        num_blocks = pages.shape[0] // len(shape.layers)
        first = jnp.arange(len(shape.layers), dtype=jnp.int32)[:, None] * num_blocks
        # Padding is mapped to an index after the last block, and JAX drops this write. A negative
        # index would count from the end.
        to = jnp.where(targets < 0, pages.shape[0], first + targets)
        copied.append(pages.at[to].set(pages[first + sources], mode="drop"))
    return tuple(copied)
