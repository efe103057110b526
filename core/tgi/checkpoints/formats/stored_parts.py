"""Checks the stored tensors of a quantized weight, and converts values to numbers and codes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import numpy.typing as npt

from tgi.architectures.checkpoint import StoredTensor
from tgi.checkpoints.parts import float_values, is_listed, unpack_bits
from tgi.checkpoints.quantized import CodeKind, code_values
from tgi.checkpoints.quantized_tensor import Array
from tgi.errors import ModelError

__all__ = [
    "FLOATS",
    "SIGN_BIT",
    "check_not_excluded",
    "checked_part",
    "nibbles",
    "numbers",
    "one_expert",
    "optional_parts",
    "powers_of_two",
    "row_range",
    "unpack_words",
]

FLOATS = ("F32", "F16", "BF16")
"""The dtypes of scales that every format may use."""

SIGN_BIT = 0x80
"""Signed bytes become codes with the zero 128 if this bit is inverted."""

Shape = tuple[int, ...]

_E8M0_BIAS = 127
_E8M0_NAN = 255
_REMEDY = "Download the checkpoint again, or check `quantization_config` in config.json."


def checked_part(
    stored: Mapping[str, StoredTensor], name: str, dtypes: Collection[str], *shapes: Shape
) -> StoredTensor:
    """Return the stored tensor `name`. Its shape must be one of `shapes`, or any if there are none.

    Raises `ModelError` with the name, the expected and the actual shape or dtype.
    """
    part = stored.get(name)
    if part is None:
        raise ModelError(
            f"The checkpoint has no tensor `{name}`, which is a part of a quantized weight.",
            _REMEDY,
        )
    if part.dtype not in dtypes:
        raise ModelError(
            f"The tensor `{name}` has dtype {part.dtype}, but the format of the quantized weights"
            f" requires {' or '.join(dtypes)}.",
            _REMEDY,
        )
    if shapes and part.shape not in shapes:
        expected = " or ".join(str(list(shape)) for shape in shapes)
        raise ModelError(
            f"The tensor `{name}` has shape {list(part.shape)}, but the format of the quantized"
            f" weights requires {expected}.",
            _REMEDY,
        )
    return part


def optional_parts(
    stored: Mapping[str, StoredTensor], module: str, names: Iterable[str]
) -> dict[str, StoredTensor]:
    """Return the tensors of a module that are present. They belong to the weight, but the canonical
    form does not need them, for example static scales of the inputs.
    """
    found = {name: stored.get(f"{module}.{name}") for name in names}
    return {name: part for name, part in found.items() if part is not None}


def check_not_excluded(name: str, excluded: Collection[str], place: str) -> None:
    """Raise `ModelError` if the settings at `place` list the module of a quantized tensor as not
    quantized.
    """
    if is_listed(name, excluded):
        raise ModelError(
            f"The tensor `{name}` is quantized, but {place} lists its module as not quantized.",
            _REMEDY,
        )


def row_range(rows: slice, num_rows: int) -> tuple[int, int]:
    """Return the first row of a slice, and the row after its last row."""
    first, stop, _ = rows.indices(num_rows)
    return first, stop


def one_expert(values: Array, expert: int | None) -> Array:
    """Return the matrix of one expert, or `values` if there are no experts."""
    return values if expert is None else values[expert]


def numbers(values: Array, dtype: str) -> npt.NDArray[np.float32]:
    """Convert values of a stored floating-point dtype to float32."""
    match dtype:
        case "F8_E4M3":
            return code_values(CodeKind.E4M3)[values]
        case "F8_E5M2":
            return code_values(CodeKind.E5M2)[values]
        case "F8_E8M0":
            return powers_of_two(values)
        case _:
            return float_values(np.asarray(values), dtype)


def powers_of_two(exponents: Array) -> npt.NDArray[np.float32]:
    """Convert E8M0 codes to float32: 2 ** (code - 127), and NaN for 255. Source: OCP Microscaling
    Formats (MX) Specification 1.0, section 5.4.1.
    """
    powers = np.arange(_E8M0_NAN, dtype=np.int32) - _E8M0_BIAS
    table = np.append(np.ldexp(np.float32(1), powers), np.float32(np.nan))
    return table.astype(np.float32)[np.asarray(exponents, np.uint8)]


def nibbles(packed: Array) -> npt.NDArray[np.uint8]:
    """Unpack bytes [..., n] to codes [..., 2n]. The lower four bits are the first code."""
    pairs = np.stack([packed & np.uint8(0x0F), packed >> np.uint8(4)], axis=-1)
    return pairs.reshape(*packed.shape[:-1], 2 * packed.shape[-1])


def unpack_words(words: Array, bits: int, count: int) -> npt.NDArray[np.uint8]:
    """Unpack 32-bit words [rows, n] to `count` codes [rows, count]. Code `i` begins at bit
    `i * bits`, counted from the lowest bit of the first word, and may end in the next word.
    """
    padding = -words.shape[-1] % bits if 8 % bits else 0
    return unpack_bits(np.pad(words, ((0, 0), (0, padding))), bits)[:, :count]
