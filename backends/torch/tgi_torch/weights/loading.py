"""Loads a checkpoint: copies one tensor after the other from the mapped files to the parameters.

In addition to the parameters, at most about `_CHUNK_BYTES` of the files are in memory at any time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from tgi.architectures import ModelSpec
from tgi.architectures.weight_map import Placement, split
from tgi.checkpoints.checkpoint import Checkpoint, open_checkpoint, read_headers
from tgi.checkpoints.pieces import decoded_pieces
from tgi.checkpoints.quantized import QuantizedMatrix
from tgi.worker.checkpoint import file_order, main_dtype_of
from tgi.worker.parts import Progress
from tgi_torch.weights.mapped_tensors import FLOAT_DTYPES, tensor_view

__all__ = ["WeightSink", "checkpoint_dtype", "load_weights"]

_CHUNK_BYTES = 4 << 20
# Each piece of a quantized tensor may read all pages of the tensor, because some formats store the
# outputs in columns. The pages of smaller tensors are released once per tensor.
_MAX_KEPT_BYTES = 64 << 20
_CHUNK_MULTIPLE = 128  # rows or inputs: kernels store inputs in pairs, or in groups if quantized


class WeightSink(Protocol):
    """Stores the weights that a loader reads."""

    @property
    def spec(self) -> ModelSpec:
        """The specification according to which the checkpoint is read."""

    def write(
        self, parameter: str, expert: int | None, *, axis: int, start: int, piece: Tensor
    ) -> None:
        """Store `piece`, the part of `parameter` that begins at index `start` of `axis`.

        `piece` may have any floating-point dtype. If `expert` is not None, `piece` belongs to that
        expert of the parameter.
        """

    def takes(self, parameter: str) -> bool:
        """Whether `write_quantized` stores the weights of `parameter` in their format. Otherwise
        the loader dequantizes the weights and calls `write`. The result is the same for all pieces
        of a parameter.
        """

    def write_quantized(
        self, parameter: str, expert: int | None, first_row: int, piece: QuantizedMatrix
    ) -> None:
        """Store the rows of `parameter` that begin at `first_row`, in the canonical form."""


def load_weights(sink: WeightSink, model_path: Path, progress: Progress) -> None:
    """Read the safetensors files in `model_path` and write them to `sink` by parameter name.

    `progress(done_bytes, total_bytes)` is called every few megabytes. If the files are damaged or
    do not match the spec, a `ModelError` with the file and the tensor is raised, and the sink is
    partly filled.
    """
    with open_checkpoint(model_path) as checkpoint:
        todo = file_order(sink.spec, checkpoint)
        sizes = {item.name: checkpoint.tensors.num_bytes(item.name) for item in todo}
        total, done = sum(sizes.values()), 0
        progress(done, total)
        for placement in todo:
            is_quantized = placement.name in checkpoint.tensors.quantized
            fill = _fill_quantized if is_quantized else _fill
            for num_bytes in fill(sink, placement, checkpoint):
                progress(min(done + num_bytes, total), total)
            done += sizes[placement.name]


def checkpoint_dtype(model_path: Path) -> torch.dtype:
    """Return the floating-point dtype with the most bytes among the tensors of the checkpoint that
    are not quantized. Raises `ModelError` if there is no such dtype.
    """
    return FLOAT_DTYPES[main_dtype_of(read_headers(model_path), model_path)]


def _fill(sink: WeightSink, placement: Placement, checkpoint: Checkpoint) -> Iterator[int]:
    """Copy one stored tensor to its parameters. Yields the number of bytes copied so far."""
    source = checkpoint.mapped[placement.name]
    pieces = split(tensor_view(source), placement, sink.spec)
    done = 0
    assert not (placement.rule.unit_rows and placement.rule.transposed), (
        "chunks must contain whole rows"
    )
    for parameter, piece in pieces.items():
        for axis, start, part in _chunks(piece):
            written = (
                functional.normalize(part.float(), dim=-1).to(part.dtype)
                if placement.rule.unit_rows
                else part
            )
            sink.write(parameter, placement.expert, axis=axis, start=start, piece=written)
            source.file.release()
            done += part.numel() * part.element_size()
            yield done


def _fill_quantized(
    sink: WeightSink, placement: Placement, checkpoint: Checkpoint
) -> Iterator[int]:
    """Copy the rows of one quantized tensor to its parameters. Yields the number of stored bytes
    that correspond to the rows copied so far.
    """
    name, done = placement.name, 0
    tensor = checkpoint.tensors.quantized[name]
    is_large = tensor.num_bytes > _MAX_KEPT_BYTES
    for piece in decoded_pieces(checkpoint, placement, sink.spec):
        parameter, matrix = piece.parameter, piece.matrix
        if not placement.rule.unit_rows and sink.takes(parameter):
            sink.write_quantized(parameter, piece.expert, piece.first_row, matrix)
        else:
            weights = torch.from_numpy(matrix.dequantize())
            if placement.rule.unit_rows:
                weights = functional.normalize(weights, dim=-1)
            sink.write(parameter, piece.expert, axis=0, start=piece.first_row, piece=weights)
        if is_large:
            checkpoint.release(name)
        done += matrix.codes.size
        yield tensor.num_bytes * done // math.prod(tensor.shape)
    checkpoint.release(name)


def _chunks(piece: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Split `piece` along the axis on which it is contiguous in the file.

    Yields (axis, start, part).
    """
    if not piece.numel():
        return
    if piece.dim() == 0:
        yield 0, 0, piece
        return
    axis = max(range(piece.dim()), key=piece.stride)
    bytes_per_index = piece.numel() // piece.shape[axis] * piece.element_size()
    step = max(1, _CHUNK_BYTES // bytes_per_index // _CHUNK_MULTIPLE) * _CHUNK_MULTIPLE
    for start in range(0, piece.shape[axis], step):
        yield axis, start, piece.narrow(axis, start, min(step, piece.shape[axis] - start))
