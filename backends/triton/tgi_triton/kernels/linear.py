"""Matrix products with weights in floating-point numbers or in quantized codes, for all tokens or
for the tokens of each expert.

Codes are converted to numbers inside the kernel, so that only the codes are read from memory. The
number of a weight is rounded to the dtype of the activations before the product, as in a model
whose weights were dequantized while they were loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, final

import triton
import triton.language as tl

from tgi_triton.kernels.small_floats import FLOAT, as_operand

__all__ = [
    "CODES_4",
    "CODES_8",
    "ProductSizes",
    "TileArguments",
    "WeightArguments",
    "add_parts",
    "multiply",
]

CODES_8 = tl.constexpr(3)  # one code per byte
CODES_4 = tl.constexpr(4)  # two codes per byte; the lower half belongs to the even input


class WeightArguments(NamedTuple):
    """A matrix, or the matrices of all experts, with `columns` outputs and `inputs` inputs."""

    codes: Any  # [experts, columns, inputs] numbers, or bytes of codes
    scales: Any  # [experts, columns, num_groups]
    zeros: Any  # uint8 [experts, columns, num_groups]
    offsets: Any  # [experts, columns, num_groups]
    table: Any  # float32 [codes], the number of each code
    zero: Any  # float, the zero of all groups
    num_columns: Any
    num_inputs: Any


class TileArguments(NamedTuple):
    """The tiles of a product of experts. A product of one matrix does not read them."""

    lines: Any  # int32 [tiles * block_m], -1 = unused
    experts: Any  # int32 [tiles], -1 = unused


@final
@dataclass(frozen=True)
class ProductSizes:
    """The values that are known when the kernel is compiled."""

    weight_kind: int
    has_table: bool
    has_zeros: bool
    has_offsets: bool
    group: int  # inputs that share a scale
    num_groups: int
    lines_per_token: int  # line i uses token i // lines_per_token
    has_bias: bool
    has_experts: bool
    num_parts: int
    block_m: int
    block_n: int
    block_k: int
    dot_dtype: tl.dtype


@triton.jit
def _per_group(values, columns, first_input, is_column, SIZES: tl.constexpr):
    """Load one value per column if all inputs of the block are in one group, otherwise one value
    per column and input.
    """
    if SIZES.group >= SIZES.block_k:
        loaded = tl.load(
            values + columns * SIZES.num_groups + first_input // SIZES.group,
            mask=is_column,
            other=0,
        )[:, None]
    else:
        groups = (first_input + tl.arange(0, SIZES.block_k)) // SIZES.group
        loaded = tl.load(
            values + columns[:, None] * SIZES.num_groups + groups[None, :],
            mask=is_column[:, None] & (groups < SIZES.num_groups)[None, :],
            other=0,
        )
    return loaded.to(tl.float32)


@triton.jit
def _codes(weight, rows, first_input, is_row, SIZES: tl.constexpr):
    """Load the stored numbers or codes of some inputs, [block_n, block_k]."""
    if SIZES.weight_kind == CODES_4:
        row_bytes = (weight.num_inputs + 1) // 2
        pairs = first_input // 2 + tl.arange(0, SIZES.block_k // 2)
        packed = tl.load(
            weight.codes + rows[:, None] * row_bytes + pairs[None, :],
            mask=is_row[:, None] & (pairs < row_bytes)[None, :],
            other=0,
        )
        codes = tl.join(packed & 0xF, packed >> 4).reshape(SIZES.block_n, SIZES.block_k)
    else:
        inputs = first_input + tl.arange(0, SIZES.block_k)
        codes = tl.load(
            weight.codes + rows[:, None] * weight.num_inputs + inputs[None, :],
            mask=is_row[:, None] & (inputs < weight.num_inputs)[None, :],
            other=0,
        )
    return codes


@triton.jit
def _numbers(weight, rows, first_input, is_row, SIZES: tl.constexpr):
    """Return the quantized weights of some inputs as float32 [block_n, block_k]."""
    codes = _codes(weight, rows, first_input, is_row, SIZES)
    if SIZES.has_table:
        numbers = tl.load(weight.table + codes.to(tl.int32))
    elif SIZES.has_zeros:
        zeros = _per_group(weight.zeros, rows, first_input, is_row, SIZES)
        numbers = codes.to(tl.float32) - zeros
    elif SIZES.weight_kind == CODES_4 or SIZES.weight_kind == CODES_8:
        numbers = codes.to(tl.float32) - weight.zero
    else:
        numbers = as_operand(codes, SIZES.weight_kind, tl.float32)
    numbers *= _per_group(weight.scales, rows, first_input, is_row, SIZES)
    if SIZES.has_offsets:
        numbers += _per_group(weight.offsets, rows, first_input, is_row, SIZES)
    return numbers


@triton.jit
def multiply(x, weight, bias, out, tiles, num_lines, SIZES: tl.constexpr):
    """Compute one tile of out = x weight' + bias. With several parts, each program adds some of the
    inputs only.

    `x` is [tokens, inputs], `bias` is [experts, columns], and `out` is [lines, columns], or with
    several parts float32 [parts, lines, columns].
    """
    block_m: tl.constexpr = SIZES.block_m
    block_n: tl.constexpr = SIZES.block_n
    tile, part = tl.program_id(0), tl.program_id(2)
    columns = tl.program_id(1) * SIZES.block_n + tl.arange(0, SIZES.block_n)
    is_column = columns < weight.num_columns
    lines = tile * SIZES.block_m + tl.arange(0, SIZES.block_m)
    rows = columns.to(tl.int64)
    if SIZES.has_experts:
        lines = tl.load(tiles.lines + lines)
        expert = tl.load(tiles.experts + tile)
        if expert < 0:
            return
        rows += expert.to(tl.int64) * weight.num_columns
    is_line = (lines >= 0) & (lines < num_lines)
    tokens = (lines // SIZES.lines_per_token).to(tl.int64)
    total = tl.zeros([block_m, block_n], tl.float32)
    num_steps = tl.cdiv(weight.num_inputs, SIZES.block_k)
    steps_of_part = tl.cdiv(num_steps, SIZES.num_parts)
    begin = part * steps_of_part
    for step in range(begin, tl.minimum(begin + steps_of_part, num_steps)):
        inputs = step * SIZES.block_k + tl.arange(0, SIZES.block_k)
        own = tl.load(
            x + tokens[:, None] * weight.num_inputs + inputs[None, :],
            mask=is_line[:, None] & (inputs < weight.num_inputs)[None, :],
            other=0.0,
        ).to(SIZES.dot_dtype)
        if SIZES.weight_kind == FLOAT:
            other = _codes(weight, rows, step * SIZES.block_k, is_column, SIZES)
        else:
            numbers = _numbers(weight, rows, step * SIZES.block_k, is_column, SIZES)
            other = numbers.to(x.dtype.element_ty)
        total += tl.dot(own, tl.trans(other.to(SIZES.dot_dtype)), input_precision="ieee")
    if SIZES.has_bias:
        own_bias = tl.load(bias + rows, mask=is_column, other=0.0).to(tl.float32)
        total += tl.where(part == 0, own_bias, 0.0)[None, :]
    at = part.to(tl.int64) * num_lines + lines
    tl.store(
        out + at[:, None] * weight.num_columns + columns[None, :],
        total.to(out.dtype.element_ty),
        mask=is_line[:, None] & is_column[None, :],
    )


@triton.jit
def add_parts(
    parts: tl.tensor,  # float32 [NUM_PARTS, count]
    out: tl.tensor,  # [count]
    count: tl.tensor,
    NUM_PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Add the parts in a fixed order, so that the result does not depend on the timing."""
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = places < count
    total = tl.zeros([BLOCK], tl.float32)
    for part in range(NUM_PARTS):
        total += tl.load(parts + part * count + places, mask=mask, other=0.0)
    tl.store(out + places, total.to(out.dtype.element_ty), mask=mask)
