"""Triton's interpreter with a check of its operands and with counters.

The interpreter computes wrong results with bfloat16 without an error (triton-lang/triton#11585).
`checked` therefore raises an error if an operand of an arithmetic operation, a comparison, a
reduction or a product is bfloat16. `Traffic` counts the bytes that kernels load and store.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

_BUILDER = interpreter.InterpreterBuilder
# Operations that move or convert values, for which the representation of bfloat16 is sufficient.
_HARMLESS = (
    "load", "store", "cast", "bitcast", "fp_to_fp", "fp_ext", "fp_trunc", "splat", "broadcast",
    "reshape", "trans", "expand_dims", "join", "split", "cat", "select", "ptr", "int_to", "to_ptr",
    "get_", "make_", "assume", "addptr", "view", "convert",
)  # fmt: skip


class Bfloat16Error(AssertionError):
    """A kernel computes with bfloat16 in the interpreter."""


@dataclass
class Traffic:
    """Bytes that kernels loaded and stored."""

    loaded: int = 0
    stored: int = 0


def _is_bfloat16(value):
    dtype = getattr(value, "dtype", None)
    return isinstance(dtype, tl.dtype | tl.core.dtype) and dtype.scalar == tl.bfloat16


def _guarded(name, original):
    def call(self, *args, **kwargs):
        if any(map(_is_bfloat16, args)):
            raise Bfloat16Error(f"{name} has an operand in bfloat16")
        return original(self, *args, **kwargs)

    return call


def _width(pointers):
    element = pointers.dtype.scalar
    return max(1, (element.element_ty if element.is_ptr() else element).primitive_bitwidth // 8)


def _counted(traffic, field, original, mask_place):
    def call(self, pointers, *args, **kwargs):
        mask = args[mask_place] if len(args) > mask_place else None
        count = int(np.size(pointers.data) if mask is None else np.sum(mask.data))
        setattr(traffic, field, getattr(traffic, field) + count * _width(pointers))
        return original(self, pointers, *args, **kwargs)

    return call


def _guarded_reduction(original):
    def call(self, input_param):
        values = input_param if isinstance(input_param, tuple) else (input_param,)
        if any(map(_is_bfloat16, values)):
            raise Bfloat16Error("a reduction or a scan has an operand in bfloat16")
        return original(self, input_param)

    return call


@contextmanager
def checked():
    """Check all operands of kernels, and count the traffic. Yields the `Traffic`."""
    traffic = Traffic()
    names = [
        name
        for name in vars(_BUILDER)
        if name.startswith("create_") and not any(word in name for word in _HARMLESS)
    ]
    originals = {name: getattr(_BUILDER, name) for name in names}
    counted = {"create_masked_load": ("loaded", 0), "create_masked_store": ("stored", 1)}
    originals |= {name: getattr(_BUILDER, name) for name in counted}
    for name in names:
        setattr(_BUILDER, name, _guarded(name, originals[name]))
    for name, (field, place) in counted.items():
        setattr(_BUILDER, name, _counted(traffic, field, originals[name], place))
    reductions = {kind: kind.apply for kind in (interpreter.ReduceOps, interpreter.ScanOps)}
    for kind, original in reductions.items():
        kind.apply = _guarded_reduction(original)
    try:
        yield traffic
    finally:
        for name, original in originals.items():
            setattr(_BUILDER, name, original)
        for kind, original in reductions.items():
            kind.apply = original
