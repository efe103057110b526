"""Matrices in int8 with one scale per output row (weight-only quantization)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import jax
import jax.numpy as jnp

__all__ = ["QuantizedMatrix", "Weight", "matmul", "quantize"]

_LARGEST = 127.0


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class QuantizedMatrix:
    """`values` times `scale` for each row: int8 [..., out, in] and float32 [..., out]."""

    values: jax.Array
    scale: jax.Array


Weight = jax.Array | QuantizedMatrix


@jax.jit
def quantize(matrix: jax.Array) -> QuantizedMatrix:
    """Round [..., out, in] to int8, so that the greatest magnitude in a row becomes 127.

    The scale of a row of zeros is 1.
    """
    exact = matrix.astype(jnp.float32)
    largest = jnp.max(jnp.abs(exact), axis=-1)
    scale = jnp.where(largest > 0, largest / _LARGEST, 1.0)
    return QuantizedMatrix(jnp.round(exact / scale[..., None]).astype(jnp.int8), scale)


def matmul(x: jax.Array, weight: Weight) -> jax.Array:
    """Multiply x [T, in] by W', where W is [out, in]. Returns [T, out] in x's dtype. Sums are in
    float32.
    """
    contracted = (((x.ndim - 1,), (1,)), ((), ()))
    # By default a matrix unit rounds float32 factors to bfloat16.
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    if isinstance(weight, QuantizedMatrix):
        # Integers up to 127 are exact in every dtype. They are converted when they are loaded into
        # the matrix unit.
        values = weight.values.astype(x.dtype)
        product = jax.lax.dot_general(
            x, values, contracted, precision=precision, preferred_element_type=jnp.float32
        )
        return (product * weight.scale).astype(x.dtype)
    return jax.lax.dot_general(x, weight, contracted, precision=precision)
