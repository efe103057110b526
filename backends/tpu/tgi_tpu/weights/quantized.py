"""Quantized matrices on the devices, and their products.

The values of a matrix are converted to the dtype of the computation inside the product, so a
program never stores the dequantized matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import jax
import jax.numpy as jnp

__all__ = ["GroupedMatrix", "QuantizedMatrix", "Weight", "matmul", "quantize"]

_LARGEST = 127.0


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class QuantizedMatrix:
    """`values` times `scale` for each row: [..., out, in] in int8 or fp8, and float32
    [..., out].
    """

    values: jax.Array
    scale: jax.Array


@final
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GroupedMatrix:
    """A matrix in which adjacent inputs share a scale. A weight is
    `scale * (value - zeros - zero) + offsets`.

    Outputs are the last axis, so XLA repeats a scale along another axis than the last one and
    fuses the conversion of the values with the product. With [..., out, in], the compiler for TPUs
    writes the repeated scales and the dequantized matrix to memory.
    """

    values: jax.Array  # [..., groups, inputs of a group, out] in int8 or fp8
    scale: jax.Array  # [..., groups, out] in float32, bfloat16 or float16
    zeros: jax.Array | None  # int8 [..., groups, out]
    offsets: jax.Array | None  # float32 [..., groups, out]
    zero: int = field(metadata={"static": True})

    def dequantized(self, dtype: jnp.dtype[jnp.floating]) -> jax.Array:
        """Return the weights as [..., groups, inputs of a group, out]. They are computed in float32
        and rounded to `dtype` once.
        """
        numbers = self.values.astype(jnp.float32)
        if self.zeros is not None:
            numbers = numbers - self.zeros.astype(jnp.float32)[..., None, :]
        elif self.zero:
            numbers = numbers - float(self.zero)
        weights = numbers * self.scale.astype(jnp.float32)[..., None, :]
        if self.offsets is not None:
            weights = weights + self.offsets[..., None, :]
        return weights.astype(dtype)


Weight = jax.Array | QuantizedMatrix | GroupedMatrix


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
        # Integers up to 127 and fp8 numbers are exact in every dtype. They are converted when they
        # are loaded into the matrix unit.
        values = weight.values.astype(x.dtype)
        product = jax.lax.dot_general(
            x, values, contracted, precision=precision, preferred_element_type=jnp.float32
        )
        return (product * weight.scale).astype(x.dtype)
    if isinstance(weight, GroupedMatrix):
        groups, size, _ = weight.values.shape
        return jax.lax.dot_general(
            x.reshape(len(x), groups, size),
            weight.dequantized(x.dtype),
            (((1, 2), (0, 1)), ((), ())),
            precision=precision,
        )
    return jax.lax.dot_general(x, weight, contracted, precision=precision)
