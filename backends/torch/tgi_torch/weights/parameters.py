"""The tensors of a model by role, and how they are laid out in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from tgi_torch.weights.quantized_matrix import QuantizedMatrix
from tgi_torch.weights.weight_formats import WeightFormat

__all__ = ["Parameters"]


@final
@dataclass
class Parameters:
    """Allocates tensors, uninitialised, and remembers which role each one, or each part of a fused
    one, fills.

    Invariant: the tensors in `by_parameter` do not overlap.
    """

    dtype: torch.dtype
    device: torch.device
    by_parameter: dict[str, Tensor] = field(default_factory=dict)
    quantized: dict[str, QuantizedMatrix] = field(default_factory=dict)  # by role, as above
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of all roles

    def create(self, parameter: str, *shape: int) -> Tensor:
        """One tensor of its own."""
        tensor = self._allocate(shape)
        self._register(parameter, tensor)
        return tensor

    def create_fused(
        self, rows: Mapping[str, int], *, before: tuple[int, ...] = (), after: tuple[int, ...] = ()
    ) -> Tensor:
        """One tensor [*before, sum of rows, *after] whose parts along the rows fill the roles in
        order.
        """
        fused = self._allocate((*before, sum(rows.values()), *after))
        for parameter, part in zip(
            rows, torch.split(fused, list(rows.values()), dim=len(before)), strict=True
        ):
            self._register(parameter, part)
        return fused

    def create_quantized(
        self, rows: Mapping[str, int], columns: int, weight_format: WeightFormat
    ) -> QuantizedMatrix:
        """One matrix [sum of rows, columns] whose rows fill the roles in order."""
        matrix = QuantizedMatrix(rows, columns, weight_format, self.dtype)
        for parameter, count in rows.items():
            self._name(parameter, (count, columns))
            self.quantized[parameter] = matrix
        return matrix

    def write(
        self, parameter: str, expert: int | None, *, axis: int, start: int, piece: Tensor
    ) -> None:
        """Copy `piece`, the part of `parameter` from index `start` of `axis` on, into place,
        converting its dtype.
        """
        if parameter in self.quantized:
            self.quantized[parameter].write(parameter, axis, start, piece)
            return
        target = (
            self.by_parameter[parameter] if expert is None else self.by_parameter[parameter][expert]
        )
        part = target if piece.dim() == 0 else target.narrow(axis, start, piece.shape[axis])
        part.copy_(piece)

    @property
    def num_bytes(self) -> int:
        """Memory of all tensors."""
        plain = sum(tensor.numel() * tensor.element_size() for tensor in self.by_parameter.values())
        return plain + sum(
            {id(matrix): matrix.num_bytes for matrix in self.quantized.values()}.values()
        )

    def _allocate(self, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def _register(self, parameter: str, tensor: Tensor) -> None:
        self._name(parameter, tuple(tensor.shape))
        self.by_parameter[parameter] = tensor

    def _name(self, parameter: str, shape: tuple[int, ...]) -> None:
        assert parameter not in self.shapes, f"two tensors for {parameter}"
        self.shapes[parameter] = shape
