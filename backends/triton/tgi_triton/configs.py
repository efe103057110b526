"""The tile sizes of attention and of matrix products for each kind of GPU, as explicit tables.

The sizes were chosen so that no kernel spills registers and every kernel fits into the shared
memory of its GPUs. `tests/backends/triton/test_compiled_kernels.py` checks both for every target.
There is no autotuning: it would need the GPU when a module is imported, and its choice could change
from one start to the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Literal, final

import triton

from tgi_triton.launch import is_interpreted

__all__ = [
    "AttentionConfig",
    "GpuKind",
    "ProductConfig",
    "attention_config",
    "current_kind",
    "kind_of",
    "product_config",
]

GpuKind = Literal["interpreter", "turing", "ampere", "hopper", "cdna", "rdna3", "rdna4"]
"""GPUs with the same tile sizes. `ampere` includes Ada and the consumer GPUs of Blackwell, and
`hopper` includes the data centre GPUs of Blackwell.
"""

_WIDE_HEAD = 256  # head size from which a tile has fewer keys
_TURING, _AMPERE, _HOPPER, _CONSUMER_BLACKWELL = 75, 80, 90, 120  # compute capabilities


@final
@dataclass(frozen=True)
class AttentionConfig:
    """The sizes of a tile: query tokens of a row, keys, warps of a program, and the number of
    blocks of keys that are loaded at once.
    """

    query_tokens: int
    keys: int
    num_warps: int
    num_stages: int = 2

    def for_head(self, head_dim: int) -> AttentionConfig:
        """Return the configuration with fewer keys if heads are wide."""
        if head_dim < _WIDE_HEAD:
            return self
        return replace(self, keys=max(16, self.keys // 2))


_DECODE: Mapping[GpuKind, AttentionConfig] = MappingProxyType(
    {
        "interpreter": AttentionConfig(1, 64, 4),
        "turing": AttentionConfig(1, 16, 4),
        "ampere": AttentionConfig(1, 64, 4),
        "hopper": AttentionConfig(1, 64, 4),
        "cdna": AttentionConfig(1, 64, 4),
        "rdna3": AttentionConfig(1, 32, 4),
        "rdna4": AttentionConfig(1, 32, 8),
    }
)
_PREFILL: Mapping[GpuKind, AttentionConfig] = MappingProxyType(
    {
        "interpreter": AttentionConfig(16, 64, 4),
        "turing": AttentionConfig(4, 16, 8),
        "ampere": AttentionConfig(16, 32, 4),
        "hopper": AttentionConfig(16, 64, 4),
        "cdna": AttentionConfig(16, 64, 4),
        "rdna3": AttentionConfig(8, 32, 4),
        "rdna4": AttentionConfig(16, 32, 4),
    }
)
# Latent attention has one head of 576 values for all query heads.
_LATENT = AttentionConfig(1, 16, 8)
_LATENT_CDNA = AttentionConfig(1, 16, 8, num_stages=1)


def attention_config(kind: GpuKind, *, is_decode: bool, head_dim: int) -> AttentionConfig:
    """Return the tile of attention with heads of `head_dim` values."""
    if is_decode and head_dim > _WIDE_HEAD:
        return _LATENT_CDNA if kind == "cdna" else _LATENT
    return (_DECODE if is_decode else _PREFILL)[kind].for_head(head_dim)


@final
@dataclass(frozen=True)
class ProductConfig:
    """The sizes of a tile of a product: rows of the activations, outputs, and inputs of a step."""

    rows: int
    outputs: int = 64
    inputs: int = 64
    num_warps: int = 4


_FEW_ROWS: Mapping[GpuKind, ProductConfig] = MappingProxyType(
    {
        "turing": ProductConfig(16, outputs=32, inputs=32),
        "rdna3": ProductConfig(16, outputs=32, inputs=32),
        "rdna4": ProductConfig(16, outputs=32),
    }
)
_MANY_ROWS: Mapping[GpuKind, ProductConfig] = MappingProxyType(
    {
        "turing": ProductConfig(16, outputs=32, inputs=32),
        "rdna3": ProductConfig(32, outputs=32),
        "rdna4": ProductConfig(32),
    }
)


def product_config(kind: GpuKind, *, is_large: bool) -> ProductConfig:
    """Return the tile of a product. `is_large` is set if a matrix has 64 rows or more."""
    if is_large:
        return _MANY_ROWS.get(kind, ProductConfig(64))
    return _FEW_ROWS.get(kind, ProductConfig(16))


def kind_of(backend: str, arch: int | str) -> GpuKind:
    """Return the kind of a compiler target, for example ("cuda", 90) or ("hip", "gfx942").

    Raises `ValueError` if no kernel was compiled for such a GPU.
    """
    if backend == "cuda":
        number = int(arch)
        if number >= _TURING:
            is_hopper = _HOPPER <= number < _CONSUMER_BLACKWELL
            return "turing" if number < _AMPERE else "hopper" if is_hopper else "ampere"
    elif backend == "hip":
        prefixes: Mapping[str, GpuKind] = {"gfx9": "cdna", "gfx11": "rdna3", "gfx12": "rdna4"}
        for prefix, kind in prefixes.items():
            if str(arch).startswith(prefix):
                return kind
    raise ValueError(f"there are no tile sizes for the target {backend} {arch}")


@cache
def current_kind() -> GpuKind:
    """Return the kind of the GPU that this process uses. Raises `ValueError` as `kind_of` does."""
    if is_interpreted():
        return "interpreter"
    target = triton.runtime.driver.active.get_current_target()
    return kind_of(target.backend, target.arch)
