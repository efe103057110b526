"""Slopes of ALiBi (attention with linear biases)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["alibi_slopes"]


def alibi_slopes(num_heads: int, bias_max: float = 8.0) -> Tensor:
    """Slopes of ALiBi (arXiv 2108.12409, section 3, where `bias_max` is 8), float32 [num_heads].

    For a power of two n the slopes are 2^(-8/n), 2^(-16/n), … For another number of heads, the
    result is the slopes of the next lower power of two, followed by every second slope of the next
    higher power of two.
    """
    below = 1 << (num_heads.bit_length() - 1)
    exponents = [-bias_max * (i + 1) / below for i in range(below)]
    exponents += [-bias_max * (2 * i + 1) / (2 * below) for i in range(num_heads - below)]
    return torch.tensor([2.0**exponent for exponent in exponents], dtype=torch.float32)
