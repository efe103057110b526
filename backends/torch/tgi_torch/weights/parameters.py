"""The tensors of a model by parameter name, and their layout in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from tgi.checkpoints.quantized import QuantizedMatrix as CanonicalMatrix
from tgi_torch.weights.quantized_matrix import QuantizedMatrix
from tgi_torch.weights.weight_formats import WeightFormat

__all__ = ["Parameters"]


@final
@dataclass
class Parameters:
    """Allocates uninitialised tensors and records the parameter name of each.

    A fused tensor has one parameter name for each of its parts. Invariant: the tensors in
    `by_parameter` do not overlap.
    """

    dtype: torch.dtype
    device: torch.device
    by_parameter: dict[str, Tensor] = field(default_factory=dict)
    quantized: dict[str, QuantizedMatrix] = field(default_factory=dict)  # by parameter name
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # shapes of all parameters
    takes_codes: bool = False  # whether the checkpoint contains the quantized weights

    def create(self, parameter: str, *shape: int) -> Tensor:
        """Create a tensor that is one parameter."""
        tensor = self._allocate(shape)
        self._register(parameter, tensor)
        return tensor

    def create_fused(
        self, rows: Mapping[str, int], *, before: tuple[int, ...] = (), after: tuple[int, ...] = ()
    ) -> Tensor:
        """Create one tensor [*before, sum of rows, *after].

        The parts of the tensor along the rows are the parameters named in `rows`, in order.
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
        """Create one matrix [sum of rows, columns] that consists of the parameters in `rows`."""
        matrix = QuantizedMatrix(rows, columns, weight_format, self.dtype)
        for parameter, count in rows.items():
            self._name(parameter, (count, columns))
            self.quantized[parameter] = matrix
        return matrix

    def write(
        self, parameter: str, expert: int | None, *, axis: int, start: int, piece: Tensor
    ) -> None:
        """Convert `piece` to the dtype of its parameter and copy it to the parameter.

        `piece` is the part of `parameter` that begins at index `start` of `axis`.
        """
        if parameter in self.quantized:
            self.quantized[parameter].write(parameter, axis, start, piece)
            return
        target = (
            self.by_parameter[parameter] if expert is None else self.by_parameter[parameter][expert]
        )
        part = target if piece.dim() == 0 else target.narrow(axis, start, piece.shape[axis])
        part.copy_(piece)

    def takes(self, parameter: str) -> bool:
        """Whether the parameter is stored in the quantized form that the checkpoint contains."""
        return self.takes_codes and parameter in self.quantized

    def write_quantized(self, parameter: str, first_row: int, piece: CanonicalMatrix) -> None:
        """Store rows of a parameter that are already quantized, beginning with `first_row`."""
        self.quantized[parameter].write_quantized(parameter, first_row, piece)

    @property
    def num_bytes(self) -> int:
        """Size in bytes of all tensors."""
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
