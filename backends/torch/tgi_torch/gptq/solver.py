"""Quantizes one matrix by GPTQ (arXiv 2210.17323), algorithm 1.

The inputs are quantized one after the other. After each input, the weights of the inputs that
follow are changed, so that the product with the calibration inputs changes as little as possible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from tgi.backend import ModelError
from tgi.backend.quantizer import GptqSettings
from tgi_torch.gptq.grid import fit_grid, round_to_grid

__all__ = ["QuantizedWeights", "product_error", "quantize_by_gptq", "round_to_nearest"]

_BLOCK = 128  # inputs whose effect on later blocks is added in one matrix product
_MAX_ATTEMPTS = 8  # the damping is multiplied by 10 after each failed factorization


@final
@dataclass(frozen=True)
class QuantizedWeights:
    """A weight is scale * (code - zero), with the scale and the zero of the group of its input."""

    codes: Tensor  # uint8 [outputs, inputs]
    scales: Tensor  # float16 [outputs, groups]
    zeros: Tensor  # uint8 [outputs, groups]
    groups: Tensor  # int32 [inputs]

    def dequantize(self) -> Tensor:
        """Return the weights in float32 [outputs, inputs]."""
        index = self.groups.long()
        numbers = self.codes.float() - self.zeros.float()[:, index]
        return numbers * self.scales.float()[:, index]

    def rows(self, first: int, last: int) -> QuantizedWeights:
        """Return the outputs from `first` to `last` - 1."""
        rows = slice(first, last)
        return QuantizedWeights(self.codes[rows], self.scales[rows], self.zeros[rows], self.groups)


def round_to_nearest(weights: Tensor, settings: GptqSettings) -> QuantizedWeights:
    """Quantize float32 [outputs, inputs] to the nearest codes, with scales from the smallest and
    the largest weight of each group.
    """
    inputs = weights.shape[1]
    size = settings.group_size or inputs
    top = (1 << settings.bits) - 1
    codes, scales, zeros = [], [], []
    for start in range(0, inputs, size):
        own = weights[:, start : start + size].T
        scale, zero = fit_grid(own, settings, None, factors=(1.0,))
        codes.append(round_to_grid(own, scale, zero, top))
        scales.append(scale)
        zeros.append(zero)
    return _packed(torch.cat(codes), scales, zeros, torch.arange(inputs) // size)


def product_error(weights: Tensor, quantized: Tensor, hessian: Tensor) -> float:
    """Return the squared error of the product with the calibration inputs, summed over outputs and
    inputs, for float32 [outputs, inputs] and the Hessian [inputs, inputs].
    """
    difference = weights - quantized
    return float(((difference @ hessian) * difference).sum())


def quantize_by_gptq(weights: Tensor, hessian: Tensor, settings: GptqSettings) -> QuantizedWeights:
    """Quantize float32 [outputs, inputs] for calibration inputs X with the Hessian X' X, float32
    [inputs, inputs].

    Inputs with large activations are quantized first, because most of the weights that can
    compensate for an error are then still unquantized. With `has_order`, the groups contain inputs
    in this order, so that their scales are chosen for inputs of similar importance. Otherwise the
    groups are adjacent inputs.

    Raises `ModelError` if the Hessian is not finite.
    """
    inputs = weights.shape[1]
    size = settings.group_size or inputs
    importance = hessian.diagonal().clone()
    order = importance.argsort(descending=True, stable=True)
    rows = weights.T[order].contiguous()  # [inputs, outputs] in the order of the computation
    factor = _inverse_factor(hessian[order][:, order], settings.damping)
    if settings.has_order:
        solver = _Solver(rows, factor, settings, torch.arange(inputs) // size)
        solver.run(_block_size(size), importance[order])
    else:
        solver = _Solver(rows, factor, settings, order // size)
        for start in range(0, inputs, size):
            own = slice(start, start + size)
            solver.add_grid(weights.T[own], importance[own])
        solver.run(_BLOCK, None)
    back = order.argsort()
    return _packed(solver.codes[back], solver.scales, solver.zeros, solver.groups[back])


@final
class _Solver:
    """The state of one matrix: `rows` are the weights [inputs, outputs] that remain to be
    quantized, and `groups` are the groups of the inputs.
    """

    def __init__(
        self, rows: Tensor, factor: Tensor, settings: GptqSettings, groups: Tensor
    ) -> None:
        self._rows = rows
        self._factor = factor
        self._settings = settings
        self.groups = groups
        self.codes = torch.empty_like(rows)
        self.scales: list[Tensor] = []
        self.zeros: list[Tensor] = []

    def add_grid(self, rows: Tensor, importance: Tensor) -> None:
        """Choose the scale and the zero of the next group from its weights [inputs, outputs]."""
        scale, zero = fit_grid(rows, self._settings, importance)
        self.scales.append(scale)
        self.zeros.append(zero)

    def run(self, block_size: int, importance: Tensor | None) -> None:
        """Quantize all inputs in blocks. With `importance`, the grid of a group is chosen at the
        start of the block in which the group begins.
        """
        groups, inputs = self.groups.tolist(), len(self._rows)
        for start in range(0, inputs, block_size):
            stop = min(start + block_size, inputs)
            if importance is not None and groups[start] == len(self.scales):
                count = groups.count(groups[start])
                own = slice(start, start + count)
                self.add_grid(self._rows[own], importance[own])
            errors = self._run_block(start, stop, groups)
            self._rows[stop:] -= self._factor[start:stop, stop:].T @ errors

    def _run_block(self, start: int, stop: int, groups: list[int]) -> Tensor:
        """Quantize the inputs of one block. Returns their errors [inputs, outputs], divided by the
        diagonal of the factor.
        """
        top = (1 << self._settings.bits) - 1
        rows, factor = self._rows[start:stop], self._factor[start:stop, start:stop]
        errors = torch.empty_like(rows)
        diagonal = factor.diagonal().tolist()
        for place in range(stop - start):
            group = groups[start + place]
            scale, zero = self.scales[group], self.zeros[group]
            row = rows[place]
            codes = round_to_grid(row, scale, zero, top)
            self.codes[start + place] = codes
            errors[place] = (row - scale * (codes - zero)) / diagonal[place]
            rows[place + 1 :].addr_(factor[place, place + 1 :], errors[place], alpha=-1)
        return errors


def _block_size(group_size: int) -> int:
    """Return a size of at most `_BLOCK` such that every group begins at the start of a block."""
    return group_size if group_size <= _BLOCK else math.gcd(group_size, _BLOCK)


def _inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """Return the upper Cholesky factor of the inverse of the damped Hessian.

    The Hessian of few tokens is singular. If the factorization fails, the damping is increased.
    """
    if not bool(hessian.isfinite().all()):
        raise ModelError(
            "The activations of the model on the calibration text are not finite.",
            "Check the weights of the checkpoint.",
        )
    diagonal = hessian.diagonal()
    mean = float(diagonal.mean()) or 1.0
    diagonal[diagonal == 0] = mean  # inputs that are always 0
    for attempt in range(_MAX_ATTEMPTS):
        damped = hessian.clone()
        damped.diagonal().add_(damping * mean * 10**attempt)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if int(failed):
            continue
        inverse = torch.cholesky_inverse(lower)
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(inverse, upper=True)
        if not int(failed) and bool(factor.isfinite().all()):
            return factor
    raise ModelError(
        "The Hessian of a matrix cannot be factorized.", "Use a longer calibration text."
    )


def _packed(
    codes: Tensor, scales: list[Tensor], zeros: list[Tensor], groups: Tensor
) -> QuantizedWeights:
    return QuantizedWeights(
        codes.T.to(torch.uint8).contiguous(),
        torch.stack(scales, dim=1).half(),
        torch.stack(zeros, dim=1).to(torch.uint8),
        groups.to(torch.int32),
    )
