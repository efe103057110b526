"""Properties of the compiler that all kernel launches need."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from tgi_triton.interpreter import round_to_nearest

__all__ = ["Kernel", "dot_dtype", "is_interpreted", "next_power_of_two"]


Kernel = Any
"""A compiled function of Triton, which has no type: `kernel[grid](*arguments, **constants)`."""


def is_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter on the CPU (`TRITON_INTERPRET=1`)."""
    return bool(triton.knobs.runtime.interpret)


if is_interpreted():
    round_to_nearest()


def dot_dtype(dtype: torch.dtype) -> tl.dtype:
    """Return the dtype of the operands of `tl.dot` for activations in `dtype`.

    The interpreter computes wrong results with bfloat16 (triton-lang/triton#11585), so operands are
    float32 there.
    """
    if is_interpreted() or dtype == torch.float32:
        return tl.float32
    return tl.bfloat16 if dtype == torch.bfloat16 else tl.float16


def next_power_of_two(value: int) -> int:
    """Return the smallest power of two that is not less than `value`."""
    return 1 << max(0, value - 1).bit_length()
