"""Divides the rows of a quantized tensor among its parameters, and decodes them in pieces."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import final

import msgspec
import numpy as np
import numpy.typing as npt

from tgi.architectures.spec import ModelSpec
from tgi.architectures.weight_map import Placement, check_shape, oriented, split, stored_shape
from tgi.checkpoints.checkpoint import Checkpoint
from tgi.checkpoints.quantized import QuantizedFormat, QuantizedMatrix
from tgi.errors import ModelError

__all__ = [
    "ParameterFormat",
    "Piece",
    "check_quantized_shape",
    "decoded_pieces",
    "dequantized",
    "formats_of",
]

_PIECE_BYTES = 4 << 20  # decoded codes in one piece
_ROW_UNIT = 128  # kernels store panels of rows, so pieces begin at a multiple of this number


@final
@dataclass(frozen=True)
class ParameterFormat:
    """The format of a quantized parameter. If inputs are reordered, `order_digest` is equal for
    parameters with the same order. Otherwise it is empty.
    """

    format: QuantizedFormat
    order_digest: str = ""


@final
@dataclass(frozen=True)
class Piece:
    """Adjacent rows of a parameter, or of one expert's matrix in a parameter."""

    parameter: str
    expert: int | None
    first_row: int
    matrix: QuantizedMatrix


def check_quantized_shape(shape: tuple[int, ...], placement: Placement) -> None:
    """Raise `ModelError` with the tensor's name if the quantized tensor has another shape than the
    model requires. Quantized tensors are oriented as parameters, even if unquantized tensors of the
    architecture are transposed.
    """
    check_shape(shape, oriented(placement))


def decoded_pieces(
    checkpoint: Checkpoint, placement: Placement, spec: ModelSpec
) -> Iterator[Piece]:
    """Decode a quantized tensor in pieces of about `_PIECE_BYTES` codes. The factors of the
    rule are applied. `unit_rows` of the rule is not applied.
    """
    tensor = checkpoint.tensors.quantized[placement.name]
    *experts, num_rows, num_inputs = tensor.shape
    multiple = tensor.row_multiple
    unit = math.lcm(tensor.row_multiple, _ROW_UNIT)
    step = max(1, _PIECE_BYTES // max(num_inputs, 1) // unit) * unit
    factors = placement.rule.factors or (1.0,) * len(placement.parameters)
    rows_of = _rows_by_parameter(placement, spec)
    for parameter, factor in zip(placement.parameters, factors, strict=True):
        for expert, rows in enumerate(rows_of[parameter]):
            stored_expert = expert if experts else None
            own_expert = expert if placement.is_stacked else placement.expert
            for first, wanted in _runs(rows, step):
                low = int(wanted[0]) // multiple * multiple
                high = min(-(-(int(wanted[-1]) + 1) // multiple) * multiple, num_rows)
                matrix = checkpoint.decode(placement.name, stored_expert, slice(low, high))
                if len(wanted) < high - low:
                    matrix = matrix.rows(wanted - low)
                if factor != 1.0:
                    matrix = matrix.scaled(factor)
                yield Piece(parameter, own_expert, first, matrix)


def dequantized(
    checkpoint: Checkpoint, placement: Placement, spec: ModelSpec
) -> Iterator[tuple[str, int | None, npt.NDArray[np.float32]]]:
    """Dequantize the weights of a quantized tensor. Yields (parameter, expert, weights [outputs,
    inputs]), one expert at a time.
    """
    pieces = decoded_pieces(checkpoint, placement, spec)
    for (parameter, expert), own in groupby(pieces, lambda piece: (piece.parameter, piece.expert)):
        yield parameter, expert, np.concatenate([piece.matrix.dequantize() for piece in own])


def formats_of(checkpoint: Checkpoint, todo: list[Placement]) -> Mapping[str, ParameterFormat]:
    """Return the format of each parameter that is quantized as a whole. A parameter is missing if
    only some of its experts are quantized, if they have several formats, or if the weights are
    computed from the dequantized tensor (`unit_rows`).
    """
    formats: dict[str, QuantizedFormat | None] = {}
    digests: dict[str, bytes] = {}
    for placement in todo:
        tensor = checkpoint.tensors.quantized.get(placement.name)
        form = None if tensor is None or placement.rule.unit_rows else tensor.format
        for parameter in placement.parameters:
            known = formats.setdefault(parameter, form)
            formats[parameter] = form if known == form else None
            if tensor is None or form is None or not form.has_input_order:
                continue
            for expert in range(tensor.shape[0]) if len(tensor.shape) > 2 else (None,):
                order = checkpoint.decode(placement.name, expert, slice(0, 0)).input_order
                own = f"{placement.expert} {expert} ".encode() + (
                    b"" if order is None else order.tobytes()
                )
                digests[parameter] = hashlib.sha256(digests.get(parameter, b"") + own).digest()
    return {
        parameter: ParameterFormat(form, digests[parameter].hex() if parameter in digests else "")
        for parameter, form in formats.items()
        if form is not None
    }


def _rows_by_parameter(
    placement: Placement, spec: ModelSpec
) -> Mapping[str, list[npt.NDArray[np.int64]]]:
    """Return the rows of the tensor that belong to each parameter, in the parameter's order. The
    list contains one array per expert, or one array if the tensor has no experts.

    A column with the number of each row is split as a weight with one input would be.
    """
    column = msgspec.structs.replace(
        oriented(placement), shapes=tuple((*shape[:-1], 1) for shape in placement.shapes)
    )
    if placement.rule.layout == "single_row":
        raise ModelError(
            f"The tensor `{placement.name}` is quantized, but its single row contains the values of"
            " several outputs.",
            "Use a checkpoint in which this tensor is not quantized.",
        )
    shape = stored_shape(column)
    numbers = np.broadcast_to(np.arange(shape[-2])[:, None], shape)
    pieces = split(numbers, column, spec)
    return {
        parameter: [piece[..., 0]] if piece.ndim == 2 else list(piece[..., 0])
        for parameter, piece in pieces.items()
    }


def _runs(rows: npt.NDArray[np.int64], step: int) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Divide ascending row numbers into runs whose first and last number are less than `step`
    apart. Yields (index of the first row, rows).
    """
    assert (np.diff(rows) > 0).all(), "rows of a parameter are stored in their order"
    first = 0
    while first < len(rows):
        end = int(np.searchsorted(rows, rows[first] + step))
        yield first, rows[first:end]
        first = end
