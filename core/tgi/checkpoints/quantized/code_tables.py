"""The number that each code of a kind represents."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from tgi.checkpoints.quantized.number_format import CodeKind

__all__ = ["code_values"]

# The quantiles of bitsandbytes, `csrc/cpu_ops.cpp` and `functional.py`: create_normal_map.
_NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
# The magnitudes of bitsandbytes' fp4 by the lower three bits of the code; bit 3 is the sign.
_FP4 = (0.0, 0.0052083333333, 0.6666666666667, 1.0, 0.3333333333333, 0.5, 0.1666666666667, 0.25)
# OCP Microscaling Formats (MX) Specification 1.0, section 5.3.3; bit 3 is the sign.
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_E4M3_BIAS, _E5M2_BIAS = 7, 15


@cache
def code_values(kind: CodeKind, bits: int = 8) -> npt.NDArray[np.float32]:
    """Return the number of every code as float32 [2 ** bits]. For integers the number is the code
    itself, and the caller subtracts the zero.
    """
    match kind:
        case CodeKind.INTEGER:
            return np.arange(1 << bits, dtype=np.float32)
        case CodeKind.NF4:
            return np.array(_NF4, np.float32)
        case CodeKind.FP4:
            return _signed(_FP4)
        case CodeKind.E2M1:
            return _signed(_E2M1)
        case CodeKind.E4M3:
            return _small_floats(exponent_bits=4, bias=_E4M3_BIAS, has_infinity=False)
        case CodeKind.E5M2:
            return _small_floats(exponent_bits=5, bias=_E5M2_BIAS, has_infinity=True)


def _signed(magnitudes: tuple[float, ...]) -> npt.NDArray[np.float32]:
    positive = np.array(magnitudes, np.float32)
    return np.concatenate([positive, -positive])


def _small_floats(*, exponent_bits: int, bias: int, has_infinity: bool) -> npt.NDArray[np.float32]:
    mantissa_bits = 7 - exponent_bits
    codes = np.arange(256)
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = (codes & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    magnitude = np.where(
        exponent == 0, mantissa * 2.0 ** (1 - bias), (1 + mantissa) * 2.0 ** (exponent - bias)
    )
    top = exponent == (1 << exponent_bits) - 1
    if has_infinity:
        magnitude = np.where(top, np.where(mantissa == 0, np.inf, np.nan), magnitude)
    else:
        magnitude = np.where((codes & 0x7F) == 0x7F, np.nan, magnitude)
    return np.where(codes & 0x80, -magnitude, magnitude).astype(np.float32)
