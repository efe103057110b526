"""Sums the Hessians of linear layers while the decoder runs on the calibration text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from torch import Tensor

__all__ = ["Hessian", "HessianRecorder"]


@final
@dataclass(frozen=True)
class Hessian:
    """The sum X' X over the inputs X [tokens, inputs] of all products with one weight."""

    address: int  # of the weight [outputs, inputs], or of several weights in one tensor
    num_bytes: int  # size of the weight
    matrix: Tensor  # float32 [inputs, inputs]


@final
class HessianRecorder:
    """Replaces the operation `Ops.linear`. While `is_recording` is set, the inputs of each product
    are added to the Hessian of its weight. A weight is identified by its memory.
    """

    def __init__(self, linear: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> None:
        self._linear = linear
        self._hessians: dict[int, Hessian] = {}
        self.is_recording = False

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return x W' + b."""
        if self.is_recording:
            self._add(x.reshape(-1, x.shape[-1]).float(), weight)
        return self._linear(x, weight, bias)

    def clear(self) -> None:
        """Release all Hessians."""
        self._hessians.clear()

    def find(self, weight: Tensor) -> Hessian | None:
        """Return the Hessian of a weight, which may be a part of a fused weight. Returns None if
        there was no product with this weight.
        """
        start, stop = weight.data_ptr(), weight.data_ptr() + weight.nbytes
        return next(
            (
                known
                for known in self._hessians.values()
                if known.address <= start and stop <= known.address + known.num_bytes
            ),
            None,
        )

    def _add(self, x: Tensor, weight: Tensor) -> None:
        address = weight.data_ptr()
        known = self._hessians.get(address)
        if known is None:
            matrix = x.new_zeros(x.shape[1], x.shape[1])
            known = self._hessians[address] = Hessian(address, weight.nbytes, matrix)
        known.matrix.addmm_(x.T, x)
