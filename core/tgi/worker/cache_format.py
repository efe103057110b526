"""The formats of `--kv-cache-dtype`, in which a cache contains codes of 8 bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from tgi.architectures import ModelSpec
from tgi.checkpoints.quantized import CodeKind
from tgi.worker.cache_layout import attention_layers

__all__ = ["CACHE_FORMATS", "CacheCoding", "CacheFormat", "CacheScales", "unscaled"]


@final
@dataclass(frozen=True)
class CacheFormat:
    """The codes of one cached number, which have 8 bits."""

    name: str  # a value of `--kv-cache-dtype`
    kind: CodeKind
    # Size in bytes of the scale of one token and head. If the size is 0, a layer has one scale for
    # its keys and one scale for its values, and these scales are constants.
    scale_bytes: int = 0
    value_bytes: int = 1


CACHE_FORMATS: Mapping[str, CacheFormat] = MappingProxyType(
    {
        form.name: form
        for form in (
            CacheFormat("fp8_e4m3fn", CodeKind.E4M3),
            CacheFormat("fp8_e5m2", CodeKind.E5M2),
            CacheFormat("int8", CodeKind.INTEGER, scale_bytes=4),
        )
    }
)
"""Maps the values of `--kv-cache-dtype` to their formats."""


@final
@dataclass(frozen=True)
class CacheScales:
    """The numbers by which the codes of a layer are multiplied when they are read."""

    key: float = 1.0
    value: float = 1.0


@final
@dataclass(frozen=True)
class CacheCoding:
    """A cache format, and the scales of each layer of `attention_layers`. Formats with a scale for
    each token do not use the scales of layers.
    """

    format: CacheFormat
    scales: tuple[CacheScales, ...]
    from_checkpoint: bool = False  # whether the checkpoint contains scales


def unscaled(name: str, spec: ModelSpec) -> CacheCoding:
    """Return the coding of the format `name` in which the scale of every layer is 1."""
    return CacheCoding(CACHE_FORMATS[name], tuple(CacheScales() for _ in attention_layers(spec)))
