"""Corrects Triton's interpreter, which drops the lower half of a float32 number when it converts
the number to bfloat16. All devices round to the nearest number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

__all__ = ["round_to_nearest"]

_HALF = 0x7FFF  # one less than half of a unit in the last place of bfloat16
_QUIET_NAN = 0x7FC0
_BFLOAT16_SHIFT = 16  # bfloat16 is the upper half of float32


def round_to_nearest() -> None:
    """Make the conversions of this process round to nearest, ties to even."""
    builder = interpreter.InterpreterBuilder
    convert = builder.cast_impl
    if convert.__name__ == _convert.__name__:
        return

    def _convert_or_round(self: Any, src: Any, dst_type: Any) -> Any:  # noqa: ANN401 - no types
        if src.dtype.scalar == tl.float32 and dst_type.scalar == tl.bfloat16:
            return interpreter.TensorHandle(_convert(src.data), dst_type.scalar)
        return convert(self, src, dst_type)

    _convert_or_round.__name__ = _convert.__name__
    builder.cast_impl = _convert_or_round


def _convert(values: Any) -> Any:  # noqa: ANN401 - arrays and numpy numbers
    """Return the bits of the nearest bfloat16 numbers, uint16."""
    exact = np.asarray(values, np.float32)
    bits = exact.view(np.uint32).astype(np.uint64)
    rounded = (bits + _HALF + (bits >> _BFLOAT16_SHIFT & 1)) >> _BFLOAT16_SHIFT
    return np.where(np.isnan(exact), _QUIET_NAN, rounded).astype(np.uint16)
