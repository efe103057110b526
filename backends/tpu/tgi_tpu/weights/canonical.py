"""Converts weights in the canonical form to the arrays of the devices, in host memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tgi.architectures import ModelSpec
from tgi.architectures.weight_map import Placement
from tgi.checkpoints import quantized
from tgi.checkpoints.checkpoint import Checkpoint
from tgi.checkpoints.pieces import Piece, decoded_pieces
from tgi_tpu.weights.fitting import fit, fit_rows
from tgi_tpu.weights.leaves import Leaf
from tgi_tpu.weights.matrix_formats import MatrixFormat, center_of
from tgi_tpu.weights.quantized import GroupedMatrix, QuantizedMatrix

__all__ = ["arrays_of", "whole_matrices"]

HostArray = npt.NDArray[np.generic]


def whole_matrices(
    checkpoint: Checkpoint, placement: Placement, spec: ModelSpec
) -> Iterator[tuple[str, int | None, quantized.QuantizedMatrix]]:
    """Decode a quantized tensor. Yields (parameter, expert, matrix), one expert at a time."""
    pieces = decoded_pieces(checkpoint, placement, spec)
    for (parameter, expert), own in groupby(pieces, lambda piece: (piece.parameter, piece.expert)):
        yield parameter, expert, _joined(list(own))


def _joined(pieces: list[Piece]) -> quantized.QuantizedMatrix:
    """Return the matrix with the rows of all pieces."""
    matrices = [piece.matrix for piece in pieces]
    zeros = [matrix.zeros for matrix in matrices if matrix.zeros is not None]
    offsets = [matrix.offsets for matrix in matrices if matrix.offsets is not None]
    return replace(
        matrices[0],
        codes=np.concatenate([matrix.codes for matrix in matrices]),
        scales=np.concatenate([matrix.scales for matrix in matrices]),
        zeros=np.concatenate(zeros) if zeros else None,
        offsets=np.concatenate(offsets) if offsets else None,
    )


def arrays_of(
    parameter: str, matrix: quantized.QuantizedMatrix, spec: ModelSpec, leaf: Leaf
) -> QuantizedMatrix | GroupedMatrix:
    """Return the arrays of a matrix in host memory, with numpy arrays in place of JAX arrays. The
    matrix is fitted to the mesh.
    """
    form = leaf.form
    assert form is not None, "only quantized arrays have a format"
    values = fit(parameter, _values(matrix, form), spec, leaf.mesh)
    num_outputs, num_inputs = values.shape
    if not form.is_grouped:
        scale = fit_rows(parameter, matrix.scales, spec, leaf.mesh)
        return QuantizedMatrix(values, scale[:, 0])  # type: ignore[arg-type] # numpy arrays
    size = leaf.group_inputs
    # For each group on the devices, the index of its group in the checkpoint. The weights of padded
    # inputs are zero, so any scale is correct for them.
    groups = np.arange(0, num_inputs, size) // (form.group or num_inputs)
    groups = np.minimum(groups, matrix.scales.shape[1] - 1)

    def per_group(array: npt.NDArray[np.number], dtype: str) -> HostArray:
        fitted = fit_rows(parameter, array[:, groups], spec, leaf.mesh)
        return np.ascontiguousarray(fitted.T).astype(np.dtype(dtype))

    center = center_of(matrix.format)
    zeros = None if matrix.zeros is None else matrix.zeros.astype(np.int16) - center
    offsets = matrix.offsets
    return GroupedMatrix(
        np.ascontiguousarray(values.T).reshape(-1, size, num_outputs),  # type: ignore[arg-type]
        per_group(matrix.scales, form.scale_dtype),  # type: ignore[arg-type]
        None if zeros is None else per_group(zeros, "int8"),  # type: ignore[arg-type]
        None if offsets is None else per_group(offsets, "float32"),  # type: ignore[arg-type]
        form.zero,
    )


def _values(matrix: quantized.QuantizedMatrix, form: MatrixFormat) -> HostArray:
    dtype = np.dtype(getattr(ml_dtypes, form.dtype, form.dtype))
    center = center_of(matrix.format)
    if not center:
        return matrix.codes.view(dtype)
    # The difference of two bytes, modulo 256, is the signed number.
    return (matrix.codes - np.uint8(center)).view(np.int8).astype(dtype, copy=False)
