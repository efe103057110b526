"""The paged cache of keys and values, divided over the mesh by heads.

One array for all layers whose keys and values have one shape: layer after layer its blocks, [L *
blocks, B, 2 K, D], heads alternating key, value. So a kernel reads a layer's blocks by their
numbers, and no layer is ever copied out. Where there are fewer heads than devices a head is kept
more than once; heads may be padded with zeros.
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
from tgi_tpu.fitting import padded_head_dim
from tgi_tpu.layer_groups import CacheShape, cache_shapes
from tgi_tpu.mesh import AXIS, sharding

__all__ = ["Cache", "abstract_cache", "cache_bytes_per_block", "copy_blocks", "empty_cache"]

Cache = tuple[jax.Array, ...]


def _block_shape(shape: CacheShape, block_size: int, mesh: Mesh) -> tuple[int, int, int]:
    """One block of one layer, over all devices."""
    return block_size, 2 * max(shape.num_kv_heads, mesh.size), padded_head_dim(shape.head_dim, mesh)


def abstract_cache(
    spec: ModelSpec, num_blocks: int, block_size: int, dtype: DTypeLike, mesh: Mesh
) -> Any:  # noqa: ANN401
    """`empty_cache` with `jax.ShapeDtypeStruct`s for arrays."""
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
    """A cache of `num_blocks` blocks of `block_size` tokens in every layer."""
    abstract = abstract_cache(spec, num_blocks, block_size, dtype, mesh)
    return tuple(jnp.zeros(pages.shape, pages.dtype, device=pages.sharding) for pages in abstract)


def cache_bytes_per_block(spec: ModelSpec, block_size: int, dtype: DTypeLike, mesh: Mesh) -> int:
    """Bytes of one block over all layers on one device."""
    values = sum(
        len(shape.layers) * math.prod(_block_shape(shape, block_size, mesh))
        for shape in cache_shapes(spec)
    )
    return values * jnp.dtype(dtype).itemsize // mesh.size


@partial(jax.jit, static_argnames="spec", donate_argnames="cache")
def copy_blocks(spec: ModelSpec, cache: Cache, sources: jax.Array, targets: jax.Array) -> Cache:
    """The cache with blocks `sources` int32 [N] copied to `targets` int32 [N] in every layer; a
    target below 0 is padding.

    All sources are read before a target is written. The cache given is used up.
    """
    copied = []
    for shape, pages in zip(cache_shapes(spec), cache, strict=True):
        num_blocks = pages.shape[0] // len(shape.layers)
        first = jnp.arange(len(shape.layers), dtype=jnp.int32)[:, None] * num_blocks
        # Behind the last block, where nothing is written; below 0 would count from the end.
        to = jnp.where(targets < 0, pages.shape[0], first + targets)
        copied.append(pages.at[to].set(pages[first + sources], mode="drop"))
    return tuple(copied)
