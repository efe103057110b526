"""The key-value cache of the native kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch

from tgi.architectures import Attention, ModelSpec
from tgi.checkpoints.quantized import CodeKind, code_values
from tgi.worker.cache_format import CacheCoding
from tgi_cpu.native import NativeLibrary
from tgi_cpu.native_records import BLOCK_TOKENS, PANEL_COLUMNS, round_up

__all__ = ["CacheKind", "NativeCache"]

Blocks = npt.NDArray[Any]  # uint16, or uint8 if the cache contains codes


class CacheKind(IntEnum):
    """The format of a cache. The values are those of `tgi::CacheFormat`."""

    BF16 = 0
    E4M3 = 1
    E5M2 = 2
    INT8 = 3


_KINDS: Mapping[CodeKind, CacheKind] = MappingProxyType(
    {
        CodeKind.E4M3: CacheKind.E4M3,
        CodeKind.E5M2: CacheKind.E5M2,
        CodeKind.INTEGER: CacheKind.INT8,
    }
)


@final
@dataclass(frozen=True)
class NativeCache:
    """The key-value cache in the kernels' layout.

    Each layer has an array [blocks, values of a block]. The values of a block are ordered by kv
    head. In a cache of codes, the scales of a block and head follow its codes.
    """

    keys: tuple[Blocks, ...]
    values: tuple[Blocks, ...]
    # For each layer the fields of its `AttentionRecord` that depend on the cache. Their addresses
    # are valid as long as this object exists.
    fields: tuple[Mapping[str, object], ...]
    num_blocks: int
    block_size: int = BLOCK_TOKENS
    tables: tuple[npt.NDArray[np.uint16], ...] = ()  # to which `fields` point

    @classmethod
    def allocate(
        cls,
        spec: ModelSpec,
        num_blocks: int,
        library: NativeLibrary,
        coding: CacheCoding | None = None,
    ) -> NativeCache:
        """Allocate `num_blocks` blocks of bfloat16 values, or of codes. The memory of a page is
        allocated when the page is first used.
        """
        dtype = np.uint16 if coding is None else np.uint8
        scale_bytes = 0 if coding is None else coding.format.scale_bytes

        def reserve(layer: Attention, dim: int) -> Blocks:
            per_block = layer.num_kv_heads * BLOCK_TOKENS * (dim * dtype().itemsize + scale_bytes)
            memory = library.allocate(num_blocks * per_block)
            return memory.view(dtype).reshape(num_blocks, -1)

        layers = _attentions(spec)
        keys = tuple(reserve(layer, layer.head_dim) for layer in layers)
        values = tuple(reserve(layer, round_up(layer.head_dim, PANEL_COLUMNS)) for layer in layers)
        if coding is None:
            fields = tuple(
                {"keys": key.ctypes.data, "values": value.ctypes.data}
                for key, value in zip(keys, values, strict=True)
            )
            return cls(keys, values, fields, num_blocks)
        return _with_codes(keys, values, coding)

    def copy_blocks(self, sources: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> None:
        """Copy whole blocks in every layer. All sources are read before any target is written."""
        for side in (*self.keys, *self.values):
            side[targets] = side[sources]


def _with_codes(
    keys: tuple[Blocks, ...], values: tuple[Blocks, ...], coding: CacheCoding
) -> NativeCache:
    kind = _KINDS[coding.format.kind]
    tables: list[npt.NDArray[np.uint16]] = []
    fields: list[Mapping[str, object]] = []
    for key, value, scales in zip(keys, values, coding.scales, strict=True):
        layer: dict[str, object] = {
            "cache_format": kind,
            "key_codes": key.ctypes.data,
            "value_codes": value.ctypes.data,
        }
        if kind != CacheKind.INT8:
            pair = [_table(coding.format.kind, scale) for scale in (scales.key, scales.value)]
            tables += pair
            layer |= {
                "key_table": pair[0].ctypes.data,
                "value_table": pair[1].ctypes.data,
                "key_factor": 1 / scales.key,
                "value_factor": 1 / scales.value,
            }
        fields.append(layer)
    return NativeCache(keys, values, tuple(fields), len(keys[0]), tables=tuple(tables))


def _table(kind: CodeKind, scale: float) -> npt.NDArray[np.uint16]:
    """Return the numbers of the codes 0 to 127, multiplied by `scale`, as bfloat16."""
    numbers = torch.from_numpy(code_values(kind)[:128] * np.float32(scale))
    return numbers.bfloat16().view(torch.int16).numpy().view(np.uint16)


def _attentions(spec: ModelSpec) -> tuple[Attention, ...]:
    mixers = (
        branch.mixer
        for layer in spec.decoder.layers
        for block in layer.blocks
        for branch in block.branches
    )
    return tuple(mixer for mixer in mixers if isinstance(mixer, Attention))
