"""Chooses the scale and the zero of each group of weights."""

from __future__ import annotations

import torch
from torch import Tensor

from tgi.backend.quantizer import GptqSettings

__all__ = ["SCALE_FACTORS", "fit_grid", "round_to_grid"]

SCALE_FACTORS = tuple(1.05 - 0.025 * step for step in range(17))
"""The factors of the scale that are tried. A factor below 1 reduces the rounding error of most
weights, and the largest weights of the group are clipped.
"""

_MIN_SCALE = 2.0**-14  # the smallest float16 number that is not subnormal
_MAX_SCALE = 65504.0  # the largest float16 number


def fit_grid(
    weights: Tensor,
    settings: GptqSettings,
    importance: Tensor | None,
    factors: tuple[float, ...] = SCALE_FACTORS,
) -> tuple[Tensor, Tensor]:
    """Choose the scale and the zero of one group, float32 [outputs] each, for weights float32
    [inputs, outputs].

    The scale is a float16 number and the zero is an integer. `importance` float32 [inputs] is the
    weight of each input's squared error, or None if all weights are 1. Of the scales for all
    `factors`, the scale with the smallest sum of errors is chosen.
    """
    top = (1 << settings.bits) - 1
    low, high = weights.amin(0).clamp(max=0), weights.amax(0).clamp(min=0)
    if settings.is_symmetric:
        high = torch.maximum(-low, high)
        low = -high
    best_error = torch.full_like(low, torch.inf)
    best_scale, best_zero = torch.zeros_like(low), torch.zeros_like(low)
    for factor in factors:
        scale = ((high - low) * (factor / top)).clamp(_MIN_SCALE, _MAX_SCALE).half().float()
        # A zero of 0 would be stored as `top`. Kernels of other servers would add 1 to `top`
        # without a wrap-around to 0.
        zero = (
            torch.full_like(scale, (top + 1) // 2)
            if settings.is_symmetric
            else (-low / scale).round().clamp(1, top)
        )
        errors = (weights - scale * (round_to_grid(weights, scale, zero, top) - zero)).square()
        error = errors.sum(0) if importance is None else importance @ errors
        is_better = error < best_error
        best_error = torch.where(is_better, error, best_error)
        best_scale = torch.where(is_better, scale, best_scale)
        best_zero = torch.where(is_better, zero, best_zero)
    return best_scale, best_zero


def round_to_grid(weights: Tensor, scale: Tensor, zero: Tensor, top: int) -> Tensor:
    """Return the codes of weights [..., outputs] as float32 integers from 0 to `top`."""
    return (weights / scale + zero).round().clamp(0, top)
