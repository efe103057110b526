"""Formats numbers and strings as TGI does: as compact JSON. An f32 has the fewest digits that
identify it.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

__all__ = [
    "HOLE",
    "format_f32",
    "format_f64",
    "format_json",
    "format_plain",
    "format_string",
    "round_f32",
    "split_at_holes",
]

# The placeholder for a value that is inserted later. JSON text contains no null byte.
HOLE: Any = msgspec.Raw(b"\0")


# The limits are rounded to f32, because the f32 nearest to 1e-6 is below 1e-6, and the f32 nearest
# to 1e13 is below 1e13.
_MIN_PLAIN = np.float32(1e-6)
_MIN_EXPONENT = np.float32(1e13)

# Between these limits, `str` of an f32 is a plain decimal.
_MIN_SHORT, _MIN_LONG = 1.1e-4, 9.9e5

_MIN_PLAIN_F64, _MIN_EXPONENT_F64 = 1e-5, 1e16


def round_f32(value: float) -> float:
    """Round `value` to the nearest f32. Values outside the range of f32 become infinite."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def format_f32(value: float | None) -> str:
    """Format an f32 as JSON, like serde_json: `-0.34`, `0.0`, `16777216.0`, `5e-7`, `1e13`.

    Numbers from 1e-6 to 1e13 are plain decimals. Other numbers have an exponent without leading
    zeros. None, NaN and infinities become `null`.
    """
    if value is None or not math.isfinite(value):
        return "null"
    if _MIN_SHORT < abs(value) < _MIN_LONG:
        return str(np.float32(value))  # the same text in a third of the time
    number = np.float32(value)
    magnitude = abs(number)
    if magnitude == 0.0 or _MIN_PLAIN <= magnitude < _MIN_EXPONENT:
        return np.format_float_positional(number, unique=True, trim="0")
    return _with_exponent(number)


def format_f64(value: float) -> str:
    """Format a finite f64 as in the error messages of serde_json: `1.0`, `0.00001`, `1.5e-7`,
    `1.8446744073709552e19`.
    """
    magnitude = abs(value)
    if magnitude == 0.0 or _MIN_PLAIN_F64 <= magnitude < _MIN_EXPONENT_F64:
        return np.format_float_positional(value, unique=True, trim="0")
    return _with_exponent(value)


def format_plain(value: float) -> str:
    """Format a float as a plain decimal without an exponent: `0.25`, `2`, `0.0000001`."""
    return np.format_float_positional(value, unique=True, trim="-")


def format_json(value: object) -> str:
    """Format records, dicts, lists, strings, numbers, booleans and None as compact JSON."""
    return msgspec.json.encode(value).decode()


def split_at_holes(record: msgspec.Struct) -> list[str]:
    """The JSON text of `record`, split at the values that are `HOLE`."""
    return format_json(record).split("\0")


def format_string(text: str) -> str:
    r"""Format `text` as a JSON string in UTF-8.

    Only `"`, `\` and the control characters below U+0020 are escaped (`\u001f`, `\n`).
    """
    return msgspec.json.encode(text).decode()


def _with_exponent(number: float | np.float32) -> str:
    return np.format_float_scientific(number, unique=True, trim="-", exp_digits=1).replace(
        "e+", "e"
    )
