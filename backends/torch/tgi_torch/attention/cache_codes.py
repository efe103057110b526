"""Converts cached keys and values to codes of 8 bits and back, in plain PyTorch.

Shapes: N tokens, K kv heads, D head size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, final

import torch
from torch import Tensor

from tgi.checkpoints.quantized import CodeKind

__all__ = ["FLOAT_CODES", "CacheCodec", "FloatCodec", "IntegerCodec"]

FLOAT_CODES: Mapping[CodeKind, torch.dtype] = MappingProxyType(
    {CodeKind.E4M3: torch.float8_e4m3fn, CodeKind.E5M2: torch.float8_e5m2}
)
"""The dtypes of 8-bit floats."""

_MAX_INTEGER = 127
_SMALLEST_SCALE = 1e-35  # the inverse of a smaller scale may be infinite


class CacheCodec(Protocol):
    """The conversion of the keys or the values of one layer."""

    @property
    def scales(self) -> Tensor | None:
        """The scales of the tokens, float32 [num_blocks, block_size, K], if there are any."""

    def encode(self, values: Tensor, slots: Tensor) -> Tensor:
        """Return the codes, uint8 [N, K, D], of `values`, which will be stored at `slots`."""

    def decode(self, codes: Tensor, slots: Tensor) -> Tensor:
        """Return the values [N, K, D] of the codes that are stored at `slots`."""


@final
@dataclass(frozen=True)
class FloatCodec:
    """8-bit floats with one scale per layer. A finite value beyond the range becomes the largest
    finite number. Values that are not finite remain so.
    """

    number: torch.dtype  # one of `FLOAT_CODES`
    scale: float
    dtype: torch.dtype  # of decoded values

    @property
    def has_infinity(self) -> bool:
        """Whether the format has a code for infinity. If it has none, infinity becomes NaN."""
        return self.number == torch.float8_e5m2

    @property
    def scales(self) -> Tensor | None:
        """The value is None, because the scale is a constant."""
        return None

    def encode(self, values: Tensor, slots: Tensor) -> Tensor:
        """Round the values to the nearest 8-bit floats."""
        del slots
        wide = values.float()
        limit = torch.finfo(self.number).max
        # `clamp` makes an infinity finite, as does the conversion to a format without infinity.
        limited = (wide / self.scale).clamp(-limit, limit)
        special = wide if self.has_infinity else wide * torch.nan
        return torch.where(wide.isfinite(), limited, special).to(self.number).view(torch.uint8)

    def decode(self, codes: Tensor, slots: Tensor) -> Tensor:
        """Multiply the numbers by the scale."""
        del slots
        numbers = codes.view(self.number)
        if self.scale == 1.0:
            return numbers.to(self.dtype)
        return (numbers.float() * self.scale).to(self.dtype)


@final
@dataclass(frozen=True)
class IntegerCodec:
    """8-bit integers with one scale per token and head. The largest magnitude of a head becomes
    127. If a value of a head is not finite, all values of this head become NaN.
    """

    scales: Tensor  # float32 [num_blocks, block_size, K]
    dtype: torch.dtype  # of decoded values

    def encode(self, values: Tensor, slots: Tensor) -> Tensor:
        """Store the scales of the tokens, and round the values to integers."""
        wide = values.float()
        largest = wide.abs().amax(-1)
        scales = torch.where(largest.isfinite(), largest / _MAX_INTEGER, torch.nan)
        self.scales.flatten(0, 1).index_copy_(0, slots, scales)
        # The codes are zero if the scale is NaN or too small.
        factor = torch.where(scales > _SMALLEST_SCALE, 1 / scales, 0.0).unsqueeze(-1)
        codes = torch.where(factor > 0, wide * factor, 0.0).round()
        return codes.to(torch.int8).view(torch.uint8)

    def decode(self, codes: Tensor, slots: Tensor) -> Tensor:
        """Multiply the integers by the scales of their tokens."""
        scales = self.scales.flatten(0, 1).index_select(0, slots).unsqueeze(-1)
        return (codes.view(torch.int8) * scales).to(self.dtype)
