"""Lists the modules of a quantized checkpoint that are not quantized."""

from __future__ import annotations

from collections import Counter

from tgi.checkpoints.checkpoint import LogicalTensors

__all__ = ["unquantized_modules"]

_MATRIX_DIMENSIONS = 2


def unquantized_modules(tensors: LogicalTensors) -> dict[str, int]:
    """Return the modules with a matrix that is not quantized, and the size of these matrices in
    bytes. Modules that differ only in the numbers in their names are counted as one, with `*`
    instead of the numbers. Norms and biases are not matrices.
    """
    num_bytes = Counter[str]()
    for name, stored in tensors.plain.items():
        if name.endswith(".weight") and len(stored.shape) >= _MATRIX_DIMENSIONS:
            words = name.removesuffix(".weight").split(".")
            module = ".".join("*" if word.isdigit() else word for word in words)
            num_bytes[module] += stored.num_bytes
    return dict(num_bytes)
