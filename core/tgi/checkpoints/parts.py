"""Checks and reads the stored tensors that a quantized weight consists of."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt

from tgi.architectures.checkpoint import StoredTensor
from tgi.checkpoints.quantized import ScaleKind
from tgi.checkpoints.quantized_tensor import Array
from tgi.errors import ModelError

__all__ = [
    "SCALE_KINDS",
    "check_part",
    "float_values",
    "groups_text",
    "is_listed",
    "modules_with",
    "num_groups",
    "part",
    "parts_of",
    "unpack_bits",
    "weight_name",
]

SCALE_KINDS: Mapping[str, ScaleKind] = {
    "F16": ScaleKind.F16,
    "BF16": ScaleKind.BF16,
    "F32": ScaleKind.F32,
    "F8_E8M0": ScaleKind.E8M0,
}
"""Maps the stored dtype of scales to its kind."""

_DAMAGED = "The checkpoint is damaged or does not have the format that its config describes."
_BFLOAT16_SHIFT = 16  # bfloat16 is the upper half of float32
_BYTE_BITS = 8


def modules_with(stored: Mapping[str, StoredTensor], *keys: str) -> tuple[str, ...]:
    """Return the names of all modules that have a tensor `MODULE.KEY` for one of `keys`."""
    modules = (name.rpartition(".") for name in stored)
    return tuple(dict.fromkeys(module for module, _, key in modules if key in keys))


def weight_name(module: str) -> str:
    """Return the name of the module's weight in an unquantized checkpoint."""
    return f"{module}.weight"


def part(stored: Mapping[str, StoredTensor], module: str, key: str) -> StoredTensor:
    """Return the tensor `MODULE.KEY`. Raises `ModelError` if it is missing."""
    name = f"{module}.{key}"
    if name not in stored:
        raise ModelError(f"The quantized weight `{module}` has no tensor `{name}`.", _DAMAGED)
    return stored[name]


def check_part(
    stored: StoredTensor,
    shape: tuple[int, ...],
    dtypes: Collection[str],
    beside: StoredTensor | None = None,
) -> None:
    """Raise `ModelError` with the tensor's name if the tensor has another shape or dtype. `beside`
    is the tensor from which the required shape was computed.
    """
    if stored.dtype not in dtypes:
        raise ModelError(
            f"The tensor `{stored.name}` has the dtype {stored.dtype}, but its format requires"
            f" {' or '.join(dtypes)}.",
            _DAMAGED,
        )
    if stored.shape != shape:
        source = "" if beside is None else f" for `{beside.name}` of shape {list(beside.shape)}"
        raise ModelError(
            f"The tensor `{stored.name}` has shape {list(stored.shape)}, but its format requires"
            f" {list(shape)}{source}.",
            _DAMAGED,
        )


def parts_of(
    stored: Mapping[str, StoredTensor],
    module: str,
    keys: Collection[str],
    exceptions: Collection[str],
) -> dict[str, StoredTensor]:
    """Return the tensors `MODULE.KEY` of a quantized module by key.

    Raises `ModelError` if a tensor is missing, if the module has an unquantized weight too, or if
    the config lists the module in `exceptions`, which are not quantized.
    """
    if weight_name(module) in stored:
        raise ModelError(
            f"The checkpoint contains the weight `{weight_name(module)}` and also a quantized"
            f" weight for `{module}`.",
            _DAMAGED,
        )
    if is_listed(module, exceptions):
        raise ModelError(
            f"The weight of `{module}` is quantized, but the config lists this module as not"
            " quantized.",
            _DAMAGED,
        )
    return {key: part(stored, module, key) for key in keys}


def num_groups(num_inputs: int, group_size: int | None) -> int:
    """Return the number of groups of an output. None means that all inputs are one group."""
    return -(-num_inputs // (group_size or num_inputs)) if num_inputs else 0


def groups_text(group_size: int | None) -> str:
    """Describe the groups of a format for tables and logs."""
    return "one group per output" if group_size is None else f"groups of {group_size} inputs"


def is_listed(module: str, names: Collection[str]) -> bool:
    """Whether one of `names` consists of adjacent parts of the module's name. For example, `mlp`
    and `layers.0` are parts of `model.layers.0.mlp`.
    """
    return any(f".{name.strip('.')}." in f".{module}." for name in names if name.strip("."))


def float_values(values: Array, dtype: str) -> npt.NDArray[np.float32]:
    """Convert values of the stored dtype F32, F16 or BF16, as `Read` returns them, to float32."""
    if dtype == "BF16":
        return (values.astype(np.uint32) << _BFLOAT16_SHIFT).view(np.float32)
    return values.astype(np.float32)


def unpack_bits(packed: Array, bits: int) -> npt.NDArray[np.uint8]:
    """Unpack codes of 2, 3, 4 or 8 bits, which fill the bytes from the lowest bit on.

    `packed` is [rows, ...] with contiguous rows of any integer dtype. The result is uint8
    [rows, number of bits of a row / `bits`].
    """
    rows = np.ascontiguousarray(packed)
    num_octets = math.prod(rows.shape[1:]) * rows.dtype.itemsize
    octets = rows.reshape(-1).view(np.uint8).reshape(len(rows), num_octets)
    num_codes = num_octets * _BYTE_BITS // bits
    if bits == _BYTE_BITS:
        return octets
    if _BYTE_BITS % bits == 0:
        codes = np.empty((*octets.shape, _BYTE_BITS // bits), np.uint8)
        for place in range(_BYTE_BITS // bits):
            codes[..., place] = (octets >> (place * bits)) & ((1 << bits) - 1)
        return codes.reshape(len(rows), num_codes)
    # Each group of `bits` bytes contains 8 codes.
    words = np.zeros((len(rows), octets.shape[1] // bits), np.uint64)
    for place in range(bits):
        words |= octets[:, place::bits].astype(np.uint64) << np.uint64(_BYTE_BITS * place)
    codes = np.empty((*words.shape, _BYTE_BITS), np.uint8)
    for place in range(_BYTE_BITS):
        codes[..., place] = (words >> np.uint64(place * bits)) & np.uint64((1 << bits) - 1)
    return codes.reshape(len(rows), num_codes)
