"""Quantizes a matrix to a format of `weight_formats`, in plain torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from tgi_torch.weights.weight_formats import WeightFormat

__all__ = ["QuantizedTensor", "quantize"]


@final
@dataclass(frozen=True)
class QuantizedTensor:
    """A matrix [out, in] as integers and scales. The padding of the last group is zero."""

    integers: Tensor  # int8 [out, groups, group_size]
    scales: Tensor  # bfloat16 [out, groups]
    num_inputs: int

    def dequantize(self) -> Tensor:
        """Return the matrix as float32 [out, in]."""
        return (self.integers.float() * self.scales.float()[..., None]).flatten(1)[
            :, : self.num_inputs
        ]


def quantize(weight: Tensor, weight_format: WeightFormat) -> QuantizedTensor:
    """Quantize a matrix [out, in] of any floating-point dtype.

    If a group contains a value that is not finite, its scale is not finite.
    """
    num_outputs, num_inputs = weight.shape
    padding = weight_format.num_groups(num_inputs) * weight_format.group_size - num_inputs
    groups = functional.pad(weight.float(), (0, padding)).view(
        num_outputs, -1, weight_format.group_size
    )
    greatest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    candidates = [
        _round(groups, (greatest / candidate_scale).bfloat16(), weight_format)
        for candidate_scale in weight_format.scale_candidates
    ]
    integers, scales, error = candidates[0]
    for other in candidates[1:]:
        is_better = other[2] < error
        integers, scales, error = (
            torch.where(is_better, new, old)
            for new, old in zip(other, (integers, scales, error), strict=True)
        )
    return QuantizedTensor(integers.to(torch.int8), scales.squeeze(-1), num_inputs)


def _round(
    groups: Tensor, scales: Tensor, weight_format: WeightFormat
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the integers as float32, the scales, and the squared error of each group."""
    wide = scales.float()
    inverse = torch.where(wide.abs() < torch.finfo(torch.float32).tiny, 0.0, 1.0 / wide)
    integers = (
        (groups * inverse).round().nan_to_num().clamp(-weight_format.zero, weight_format.zero - 1)
    )
    return integers, scales, (groups - integers * wide).square().sum(-1, keepdim=True)
