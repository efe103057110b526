"""Matrix products with weights in floating-point numbers or in quantized codes, for all tokens or
for the tokens of each expert.

Codes are converted to numbers inside the kernel, so that only the codes are read from memory. The
number of a weight is rounded to the dtype of the activations before the product, as in a model
whose weights were dequantized while they were loaded.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tgi_triton.kernels.small_floats import FLOAT, as_operand

__all__ = ["CODES_4", "CODES_8", "add_parts", "multiply"]

CODES_8 = tl.constexpr(3)  # one code per byte
CODES_4 = tl.constexpr(4)  # two codes per byte; the lower half belongs to the even input


@triton.jit
def _numbers(codes, table, zero, HAS_TABLE: tl.constexpr):
    """Return the number of each code, float32."""
    if HAS_TABLE:
        numbers = tl.load(table + codes.to(tl.int32))
    else:
        numbers = codes.to(tl.float32) - zero
    return numbers


@triton.jit
def _per_group(values, columns, first_input, is_column, NUM_GROUPS, GROUP, BLOCK_K):
    """Load one value per column if all inputs of the block are in one group, otherwise one value
    per column and input.
    """
    if GROUP >= BLOCK_K:
        loaded = tl.load(
            values + columns * NUM_GROUPS + first_input // GROUP, mask=is_column, other=0
        )[:, None]
    else:
        groups = (first_input + tl.arange(0, BLOCK_K)) // GROUP
        loaded = tl.load(
            values + columns[:, None] * NUM_GROUPS + groups[None, :],
            mask=is_column[:, None] & (groups < NUM_GROUPS)[None, :],
            other=0,
        )
    return loaded.to(tl.float32)


@triton.jit
def _codes(
    weight,
    rows,
    first_input,
    is_row,
    num_inputs,
    WEIGHT_KIND: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Load the stored numbers or codes of some inputs, [BLOCK_N, BLOCK_K]."""
    if WEIGHT_KIND == CODES_4:
        row_bytes = (num_inputs + 1) // 2
        pairs = first_input // 2 + tl.arange(0, BLOCK_K // 2)
        packed = tl.load(
            weight + rows[:, None] * row_bytes + pairs[None, :],
            mask=is_row[:, None] & (pairs < row_bytes)[None, :],
            other=0,
        )
        codes = tl.join(packed & 0xF, packed >> 4).reshape(BLOCK_N, BLOCK_K)
    else:
        inputs = first_input + tl.arange(0, BLOCK_K)
        codes = tl.load(
            weight + rows[:, None] * num_inputs + inputs[None, :],
            mask=is_row[:, None] & (inputs < num_inputs)[None, :],
            other=0,
        )
    return codes


@triton.jit
def multiply(
    x: tl.tensor,  # [tokens, K]
    weight: tl.tensor,  # [experts, N, K] numbers, or bytes of codes
    scales: tl.tensor,  # [experts, N, NUM_GROUPS]
    zeros: tl.tensor,  # uint8 [experts, N, NUM_GROUPS]
    offsets: tl.tensor,  # [experts, N, NUM_GROUPS]
    table: tl.tensor,  # float32 [codes], the number of each code
    bias: tl.tensor,  # [experts, N]
    out: tl.tensor,  # [lines, N]; with several parts float32 [parts, lines, N]
    lines_of_tiles: tl.tensor,  # int32 [tiles * BLOCK_M], -1 = unused; only with experts
    expert_of_tile: tl.tensor,  # int32 [tiles], -1 = unused; only with experts
    num_lines: tl.tensor,
    num_columns: tl.tensor,
    num_inputs: tl.tensor,
    zero: tl.tensor,  # float32, the zero of all groups
    LINES_PER_TOKEN: tl.constexpr,  # line i uses token i // LINES_PER_TOKEN
    WEIGHT_KIND: tl.constexpr,
    HAS_TABLE: tl.constexpr,
    HAS_ZEROS: tl.constexpr,
    HAS_OFFSETS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_EXPERTS: tl.constexpr,
    GROUP: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
) -> None:
    """Compute one tile of out = x weight' + bias. With several parts, each program adds some of the
    inputs only.
    """
    tile, part = tl.program_id(0), tl.program_id(2)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = columns < num_columns
    lines = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    expert = 0
    if HAS_EXPERTS:
        lines = tl.load(lines_of_tiles + lines)
        expert = tl.load(expert_of_tile + tile)
        if expert < 0:
            return
    is_line = (lines >= 0) & (lines < num_lines)
    tokens = (lines // LINES_PER_TOKEN).to(tl.int64)
    first_column = expert.to(tl.int64) * num_columns if HAS_EXPERTS else 0
    places = (first_column + columns).to(tl.int64)
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    num_steps = tl.cdiv(num_inputs, BLOCK_K)
    steps_of_part = tl.cdiv(num_steps, NUM_PARTS)
    begin = part * steps_of_part
    for step in range(begin, tl.minimum(begin + steps_of_part, num_steps)):
        first = step * BLOCK_K
        inputs = first + tl.arange(0, BLOCK_K)
        is_input = inputs < num_inputs
        own = tl.load(
            x + tokens[:, None] * num_inputs + inputs[None, :],
            mask=is_line[:, None] & is_input[None, :],
            other=0.0,
        ).to(DOT_DTYPE)
        codes = _codes(weight, places, first, is_column, num_inputs, WEIGHT_KIND, BLOCK_N, BLOCK_K)
        if WEIGHT_KIND == CODES_4 or WEIGHT_KIND == CODES_8:
            own_zero = zero
            if HAS_ZEROS:
                own_zero = _per_group(zeros, places, first, is_column, NUM_GROUPS, GROUP, BLOCK_K)
            numbers = _numbers(codes, table, own_zero, HAS_TABLE)
            numbers *= _per_group(scales, places, first, is_column, NUM_GROUPS, GROUP, BLOCK_K)
            if HAS_OFFSETS:
                numbers += _per_group(offsets, places, first, is_column, NUM_GROUPS, GROUP, BLOCK_K)
            other = numbers.to(x.dtype.element_ty).to(DOT_DTYPE)
        elif WEIGHT_KIND == FLOAT:
            other = codes.to(DOT_DTYPE)
        else:
            numbers = as_operand(codes, WEIGHT_KIND, tl.float32)
            numbers *= _per_group(scales, places, first, is_column, NUM_GROUPS, GROUP, BLOCK_K)
            other = numbers.to(x.dtype.element_ty).to(DOT_DTYPE)
        total += tl.dot(own, tl.trans(other), input_precision="ieee")
    if HAS_BIAS:
        own_bias = tl.load(bias + places, mask=is_column, other=0.0).to(tl.float32)
        total += tl.where(part == 0, own_bias, 0.0)[None, :]
    at = part.to(tl.int64) * num_lines + lines
    tl.store(
        out + at[:, None] * num_columns + columns[None, :],
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
