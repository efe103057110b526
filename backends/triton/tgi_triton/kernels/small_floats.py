"""Conversion between float32 and floating-point numbers of 8 bits, with integer operations only.

Triton compiles its own fp8 types for some GPUs only. Integer operations are the same on every GPU.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["FLOAT", "FP8_E4M3", "FP8_E5M2", "as_operand", "decode", "encode"]

FLOAT = tl.constexpr(0)
FP8_E4M3 = tl.constexpr(1)  # 4 exponent bits, bias 7, no infinities
FP8_E5M2 = tl.constexpr(2)  # 5 exponent bits, bias 15


@triton.jit
def as_operand(stored: tl.tensor, kind: tl.constexpr, dtype: tl.constexpr) -> tl.tensor:
    """Convert stored numbers to an operand of `tl.dot`. Floating-point numbers in `dtype` remain as
    they are, so that the compiler copies them to shared memory without registers.
    """
    if kind == FLOAT:
        operand = stored.to(dtype)
    else:
        operand = decode(stored, kind).to(dtype)
    return operand


@triton.jit
def decode(stored: tl.tensor, kind: tl.constexpr) -> tl.tensor:
    """Convert the bits of fp8 numbers in uint8 to float32.

    No intermediate value is a subnormal float32, because some GPUs replace these by zero.
    """
    bits = stored.to(tl.uint32)
    mantissa_bits: tl.constexpr = 3 if kind == FP8_E4M3 else 2
    bias: tl.constexpr = 7 if kind == FP8_E4M3 else 15
    sign = (bits & 0x80) << 24
    body = bits & 0x7F
    moved = (body << (23 - mantissa_bits)) + ((127 - bias) << 23)
    normal = moved.to(tl.float32, bitcast=True)
    # The unit of subnormal numbers is 2 ** (1 - bias - mantissa_bits).
    unit: tl.constexpr = 0.001953125 if kind == FP8_E4M3 else 1.52587890625e-05
    subnormal = body.to(tl.float32) * unit
    magnitude = tl.where(body < (1 << mantissa_bits), subnormal, normal)
    return (magnitude.to(tl.uint32, bitcast=True) | sign).to(tl.float32, bitcast=True)


@triton.jit
def encode(value: tl.tensor, kind: tl.constexpr) -> tl.tensor:
    """Round float32 to the nearest fp8 number, ties to even, and return its bits in uint8.

    Larger values become the largest finite number. NaN becomes NaN.
    """
    mantissa_bits: tl.constexpr = 3 if kind == FP8_E4M3 else 2
    bias: tl.constexpr = 7 if kind == FP8_E4M3 else 15
    largest: tl.constexpr = 448.0 if kind == FP8_E4M3 else 57344.0
    smallest_normal: tl.constexpr = 0.015625 if kind == FP8_E4M3 else 6.103515625e-05
    # The unit in the last place of this float32 number is the unit of subnormal fp8 numbers.
    anchor: tl.constexpr = 16384.0 if kind == FP8_E4M3 else 128.0
    shift: tl.constexpr = 23 - mantissa_bits
    half: tl.constexpr = (1 << (shift - 1)) - 1
    sign = (value.to(tl.uint32, bitcast=True) >> 24) & 0x80
    magnitude = tl.minimum(tl.abs(value), largest)
    bits = magnitude.to(tl.uint32, bitcast=True)
    normal = ((bits + half + ((bits >> shift) & 1)) >> shift) - ((127 - bias) << mantissa_bits)
    # Rounding up may result in the smallest normal number. Its bits are the next integer.
    subnormal = (magnitude + anchor).to(tl.uint32, bitcast=True) & 0xF
    rounded = tl.where(magnitude < smallest_normal, subnormal, normal)
    rounded = tl.where(value != value, 0x7F, rounded)
    return (rounded | sign).to(tl.uint8)
