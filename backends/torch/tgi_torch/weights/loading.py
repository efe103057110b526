"""Loads a checkpoint: copies one tensor after the other from the mapped files to the parameters.

In addition to the parameters, at most about `_CHUNK_BYTES` of the files are in memory at any time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from tgi.architectures import ModelSpec
from tgi.architectures.weight_map import Placement, split
from tgi.worker.checkpoint import file_order, main_dtype_of
from tgi.worker.parts import Progress
from tgi.worker.safetensors_file import MappedTensor, close_files, map_checkpoint
from tgi_torch.weights.mapped_tensors import FLOAT_DTYPES, tensor_view

__all__ = ["WeightSink", "checkpoint_dtype", "load_weights"]

_CHUNK_BYTES = 4 << 20
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


def load_weights(sink: WeightSink, model_path: Path, progress: Progress) -> None:
    """Read the safetensors files in `model_path` and write them to `sink` by parameter name.

    `progress(done_bytes, total_bytes)` is called every few megabytes. If the files are damaged or
    do not match the spec, a `ModelError` with the file and the tensor is raised, and the sink is
    partly filled.
    """
    with _open_checkpoint(model_path) as sources:
        todo = file_order(sink.spec, sources, model_path)
        total = sum(sources[placement.name].stored.num_bytes for placement in todo)
        done = 0
        progress(done, total)
        for placement in todo:
            source = sources[placement.name]
            for num_bytes in _fill(sink, placement, source):
                source.file.release()
                progress(min(done + num_bytes, total), total)
            done += source.stored.num_bytes


def checkpoint_dtype(model_path: Path) -> torch.dtype:
    """Return the floating-point dtype with the most bytes in the checkpoint. Raises `ModelError` if
    there is no such dtype.
    """
    with _open_checkpoint(model_path) as sources:
        return FLOAT_DTYPES[main_dtype_of(sources, model_path)]


def _fill(sink: WeightSink, placement: Placement, source: MappedTensor) -> Iterator[int]:
    """Copy one stored tensor to its parameters. Yields the number of bytes copied so far."""
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
            done += part.numel() * part.element_size()
            yield done


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


@contextmanager
def _open_checkpoint(model_path: Path) -> Iterator[Mapping[str, MappedTensor]]:
    """Map all files of the checkpoint. Yields their tensors by name."""
    tensors = map_checkpoint(model_path)
    try:
        yield tensors
    finally:
        close_files(tensors)
