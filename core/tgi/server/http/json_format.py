"""Numbers and strings as TGI's clients see them: compact JSON, f32 with the fewest digits that read
back to the same f32.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

__all__ = ["format_f32", "format_f64", "format_json", "format_plain", "format_string", "round_f32"]

# As f32: 1e-6 itself lies below its own f32, and 1e13 above.
_LEAST_PLAIN = np.float32(1e-6)
_LEAST_EXPONENT = np.float32(1e13)

# Where numpy itself writes a plain decimal.
_LEAST_SHORT, _LEAST_LONG = 1.1e-4, 9.9e5

_LEAST_PLAIN_F64, _LEAST_EXPONENT_F64 = 1e-5, 1e16


def round_f32(value: float) -> float:
    """The f32 nearest to `value`, as float; beyond f32's range an infinity."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def format_f32(value: float | None) -> str:
    """JSON text of an f32: `-0.34`, `0.0`, `16777216.0`, `5e-7`, `1e13`; None, NaN and the
    infinities are `null`.

    Plain decimals from 1e-6 up to 1e13, an exponent without padding elsewhere, as serde_json prints
    an f32.
    """
    if value is None or not math.isfinite(value):
        return "null"
    if _LEAST_SHORT < abs(value) < _LEAST_LONG:
        return str(np.float32(value))  # the same text, made in a third of the time
    number = np.float32(value)
    magnitude = abs(number)
    if magnitude == 0.0 or _LEAST_PLAIN <= magnitude < _LEAST_EXPONENT:
        return np.format_float_positional(number, unique=True, trim="0")
    return _with_exponent(number)


def format_f64(value: float) -> str:
    """Text of a finite f64 in serde_json's errors: `1.0`, `0.00001`, `1.5e-7`,
    `1.8446744073709552e19`.
    """
    magnitude = abs(value)
    if magnitude == 0.0 or _LEAST_PLAIN_F64 <= magnitude < _LEAST_EXPONENT_F64:
        return np.format_float_positional(value, unique=True, trim="0")
    return _with_exponent(value)


def format_plain(value: float) -> str:
    """A float as a plain decimal without exponent: `0.25`, `2`, `0.0000001`."""
    return np.format_float_positional(value, unique=True, trim="-")


def format_json(value: object) -> str:
    """Compact JSON text of dicts, lists, strings, numbers, booleans and None."""
    return msgspec.json.encode(value).decode()


def format_string(text: str) -> str:
    r"""Return `text` as a JSON string in raw UTF-8.

    Only `"`, `\` and the control characters below U+0020 are escaped (`\u001f`, `\n`).
    """
    return msgspec.json.encode(text).decode()


def _with_exponent(number: float | np.float32) -> str:
    return np.format_float_scientific(number, unique=True, trim="-", exp_digits=1).replace(
        "e+", "e"
    )
