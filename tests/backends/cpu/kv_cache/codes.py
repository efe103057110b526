"""The codes of a cache in plain numpy. Every number is compared with all numbers of its format."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["FLOATS", "decode", "encode_floats", "encode_integers", "ordinary", "unusual"]

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]

# Bits of the exponent, bits of the mantissa and exponent bias of each format.
FLOATS = {"fp8_e4m3fn": (4, 3, 7), "fp8_e5m2": (5, 2, 15)}


def _number(code: int, name: str) -> float:
    """Return the number of a code without a sign."""
    exponent_bits, mantissa_bits, bias = FLOATS[name]
    exponent, mantissa = divmod(code, 1 << mantissa_bits)
    if name == "fp8_e4m3fn" and code == 0x7F:
        return float("nan")
    if name == "fp8_e5m2" and exponent == (1 << exponent_bits) - 1:
        return float("nan") if mantissa else float("inf")
    if exponent == 0:
        return mantissa * 2.0 ** (1 - bias - mantissa_bits)
    return ((1 << mantissa_bits) + mantissa) * 2.0 ** (exponent - bias - mantissa_bits)


def _numbers(name: str) -> npt.NDArray[np.float64]:
    return np.array([_number(code, name) for code in range(128)])


def encode_floats(values: Floats, name: str, scale: float = 1.0) -> Codes:
    """Return the codes of the nearest numbers to values / scale."""
    numbers = _numbers(name)
    finite = numbers[np.isfinite(numbers)]
    nan = 0x7F
    infinity = int(np.flatnonzero(np.isinf(numbers))[0]) if np.isinf(numbers).any() else nan
    with np.errstate(all="ignore"):
        quotients = np.abs(values).astype(np.float64) / float(np.float32(scale))
        error = np.abs(np.minimum(quotients, finite[-1])[..., None] - finite)
    nearest = error == error.min(-1, keepdims=True)
    is_tie = nearest.sum(-1) > 1
    # Of two nearest numbers, the number with the even code is used.
    nearest[..., 1::2] &= ~is_tie[..., None]
    codes = nearest.argmax(-1)
    codes = np.where(np.isinf(values), infinity, np.where(np.isnan(values), nan, codes))
    return (codes | np.where(np.signbit(values), 0x80, 0)).astype(np.uint8)


def encode_integers(values: Floats) -> tuple[Codes, Floats]:
    """Return the codes of int8, and the scales over the last axis."""
    largest = np.abs(values).max(-1)
    scales = np.where(np.isfinite(largest), largest / np.float32(127), np.nan).astype(np.float32)
    with np.errstate(all="ignore"):
        codes = np.where(scales[..., None] > 0, np.rint(values / scales[..., None]), 0)
    return codes.astype(np.int8).view(np.uint8), scales


def decode(codes: Codes, name: str, scales: Floats | float = 1.0) -> Floats:
    """Return the numbers of codes. The scales of int8 are one per vector of the last axis."""
    if name == "int8":
        return codes.view(np.int8) * np.asarray(scales, np.float32)[..., None]
    numbers = np.concatenate([_numbers(name), -_numbers(name)])
    return (numbers[codes] * scales).astype(np.float32)


def ordinary(*shape: int, seed: int = 0) -> Floats:
    """Draw values of several magnitudes."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape) * np.exp2(rng.integers(-14, 9, shape))
    return values.astype(np.float32)


def unusual(name: str) -> Floats:
    """All finite numbers of a format, the values halfway between them, values beyond the range, and
    values that are not finite.
    """
    numbers = _numbers(name)
    finite = numbers[np.isfinite(numbers)]
    halfway = (finite[1:] + finite[:-1]) / 2
    near = np.concatenate([np.nextafter(halfway.astype(np.float32), np.float32(s)) for s in (0, 9)])
    beyond = [finite[-1] * 1.01, finite[-1] * 1.5, 1e9, 3e38, 1e-30, 1e-42, np.inf, np.nan]
    values = np.concatenate([finite, halfway, near, beyond]).astype(np.float32)
    return np.concatenate([values, -values])
