"""Quantizes matrices to the formats of `weight_formats` in plain torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from tgi.checkpoints.quantized import CodeKind, QuantizedFormat, QuantizedMatrix, code_values
from tgi_torch.weights.weight_formats import WeightFormat

__all__ = ["quantize"]

_GREATEST_CODE = 15.0  # of integers of 4 bits
# The candidates for the range of a group's codes, relative to the range of its values.
_RANGES = (1.03, 1.0, 0.97, 0.94)
_STEPS = 32  # scales of one exponent, if the zero is given
_FIRST_STEP = 112 * _STEPS  # corresponds to a packed scale of 2^-15
_ZERO_UNIT, _MAX_ZERO = 0.125, 127  # of a packed zero
_MIN_MAGNITUDE = 1e-30  # an output whose values are all smaller becomes zero


def quantize(weight: Tensor, weight_format: WeightFormat) -> QuantizedMatrix:
    """Quantize a matrix [outputs, inputs] of any floating-point dtype.

    If a group contains a value that is not finite, its scale is not finite.
    """
    form, num_inputs = weight_format.form, weight.shape[1]
    size = form.group_inputs or num_inputs
    padding = form.num_groups(num_inputs) * size - num_inputs
    groups = functional.pad(weight.float(), (0, padding)).view(len(weight), -1, size)
    if weight_format.packs_scales:
        codes, scales, offsets = _with_packed_scales(groups)
        return QuantizedMatrix(
            form,
            _bytes(codes.flatten(1)[:, :num_inputs]),
            scales.squeeze(-1).numpy(),
            offsets=offsets.squeeze(-1).numpy(),
        )
    if form.kind is CodeKind.INTEGER:
        codes, scales = _symmetric(groups, form)
    else:
        codes, scales = _nearest(groups, form)
    return QuantizedMatrix(
        form, _bytes(codes.flatten(1)[:, :num_inputs]), scales.squeeze(-1).numpy()
    )


def _bytes(codes: Tensor) -> npt.NDArray[np.uint8]:
    return codes.to(torch.uint8).contiguous().numpy()


def _inverse(scales: Tensor) -> Tensor:
    return torch.where(scales.abs() < torch.finfo(torch.float32).tiny, 0.0, 1.0 / scales)


def _symmetric(groups: Tensor, form: QuantizedFormat) -> tuple[Tensor, Tensor]:
    """Map the value with the greatest magnitude of each group to the greatest integer."""
    greatest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    scales = (greatest / (form.zero - 1)).bfloat16().float()
    integers = (groups * _inverse(scales)).round().nan_to_num().clamp(-form.zero, form.zero - 1)
    return integers + form.zero, scales


def _nearest(groups: Tensor, form: QuantizedFormat) -> tuple[Tensor, Tensor]:
    """Map the greatest magnitude of each group to the greatest number of the code."""
    numbers = torch.from_numpy(code_values(form.kind, form.bits))
    top = float(numbers[numbers.isfinite()].max())
    scales = groups.abs().amax(-1, keepdim=True) / top
    if form.group_inputs is not None:
        scales = scales.bfloat16().float()
    relative = (groups * _inverse(scales)).nan_to_num().clamp(-top, top)
    if form.kind is CodeKind.E4M3:
        return relative.to(torch.float8_e4m3fn).view(torch.uint8), scales
    ordered, codes = numbers.sort()
    return codes[torch.bucketize(relative, (ordered[1:] + ordered[:-1]) / 2)], scales


def _with_packed_scales(groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the codes, scales and offsets with the smallest squared error of all candidates.

    Scales have 5 bits of mantissa besides those of the zero, and are less than 2 times the scale of
    the output. Offsets are multiples of an eighth of the scale. Weights that were already in 4 bits
    with an offset for each group are therefore represented almost exactly.
    """
    is_finite = groups.isfinite().flatten(1).all(-1)[:, None, None]
    low, high = (
        groups.amin(-1, keepdim=True).clamp(max=0),
        groups.amax(-1, keepdim=True).clamp(min=0),
    )
    greatest = ((high - low) / _GREATEST_CODE).amax(1, keepdim=True)
    column = torch.where(
        greatest < _MIN_MAGNITUDE, 0.0, torch.exp2(torch.floor(torch.log2(greatest * 1.125)))
    )
    groups, low, high = (x * _inverse(column) for x in (groups, low, high))
    best = _attempt(groups, (high - low) / _GREATEST_CODE, low)
    for part in _RANGES:
        scale = part * (high - low) / _GREATEST_CODE
        tried = _attempt(groups, scale, (low + high - scale * _GREATEST_CODE) / 2)
        best = _better(best, tried)
        best = _better(best, _attempt(groups, *_fitted(groups, tried[0])))
    codes, scales, offsets, _ = best
    scales = torch.where(is_finite, scales * column, torch.nan)
    return codes.nan_to_num(), scales, offsets * column


Attempt = tuple[Tensor, Tensor, Tensor, Tensor]  # codes, scales, offsets, squared errors


def _attempt(groups: Tensor, scales: Tensor, offsets: Tensor) -> Attempt:
    scales = scales.clamp(min=torch.finfo(torch.float32).tiny)
    zeros = (-offsets / (scales * _ZERO_UNIT)).clamp(0, _MAX_ZERO).round()
    # The bits of the zero are the lowest bits of the scale. See `native/quantized.h`.
    low_bits = zeros.int()
    steps = ((scales.view(torch.int32) >> 10) - 2 * low_bits + 128) >> 8
    steps = (steps - _FIRST_STEP).clamp(_STEPS, 16 * _STEPS - 1) + _FIRST_STEP
    scales = ((steps << 18) + (low_bits << 11)).view(torch.float32)
    offsets = -zeros * _ZERO_UNIT * scales
    codes = ((groups - offsets) / scales).clamp(0, _GREATEST_CODE).round()
    error = (groups - offsets - codes * scales).square().sum(-1, keepdim=True)
    return codes, scales, offsets, error


def _fitted(groups: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """The scales and offsets with the smallest squared error for given codes."""
    count = groups.shape[-1]
    sums, code_sums = groups.sum(-1, keepdim=True), codes.sum(-1, keepdim=True)
    determinant = count * codes.square().sum(-1, keepdim=True) - code_sums.square()
    scales = (count * (codes * groups).sum(-1, keepdim=True) - code_sums * sums) / determinant
    scales = torch.where((determinant > 0) & (scales > 0), scales, 1.0)
    return scales, (sums - scales * code_sums) / count


def _better(old: Attempt, new: Attempt) -> Attempt:
    is_better = new[-1] < old[-1]
    codes, scales, offsets, error = (
        torch.where(is_better, b, a) for a, b in zip(old, new, strict=True)
    )
    return codes, scales, offsets, error
