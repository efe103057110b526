"""Assigns the tensors of a memory-mapped checkpoint to the parameters of a model, before the data
of any tensor is read.

Loaders call `file_order`. A backend's method `check` calls `check_checkpoint`, so a command such as
`tgi doctor` reports the same error as the loader.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tgi.architectures import ModelSpec
from tgi.architectures.checkpoint import FLOAT_BYTES, main_dtype
from tgi.architectures.weight_map import Placement, check_shape, placements
from tgi.backend.errors import ModelError
from tgi.checkpoints.checkpoint import Checkpoint, LogicalTensors, open_checkpoint
from tgi.checkpoints.pieces import ParameterFormat, check_quantized_shape, formats_of

__all__ = ["check_checkpoint", "file_order", "main_dtype_of", "quantized_parameters"]


def file_order(spec: ModelSpec, checkpoint: Checkpoint) -> list[Placement]:
    """Return the placements of the tensors in the order of the files, so that a disk is read
    sequentially.

    Raises `ModelError` with the file and the tensor if a tensor is missing, unknown, or has the
    wrong shape or dtype.
    """
    tensors = checkpoint.tensors
    shapes = tensors.shapes
    try:
        todo = placements(spec, shapes.keys(), checkpoint.is_zero)
    except ModelError as error:
        raise _named(checkpoint.path, error) from error
    first = {item.name: checkpoint.first_part(item.name) for item in todo}
    todo.sort(key=lambda item: (first[item.name].file.path, first[item.name].stored.start))
    for placement in todo:
        tensor, is_quantized = first[placement.name], placement.name in tensors.quantized
        if not is_quantized:
            tensor.dtype_of(FLOAT_BYTES)
        check = check_quantized_shape if is_quantized else check_shape
        try:
            check(shapes[placement.name], placement)
        except ModelError as error:
            raise _named(tensor.file.path, error) from error
    return todo


def quantized_parameters(spec: ModelSpec, model_path: Path) -> Mapping[str, ParameterFormat]:
    """Return the format of each parameter that the checkpoint stores in one quantized format.

    The headers are read, and the order of the inputs if the format has one. Raises `ModelError` as
    `file_order` does.
    """
    with open_checkpoint(model_path) as checkpoint:
        return formats_of(checkpoint, file_order(spec, checkpoint))


def main_dtype_of(tensors: LogicalTensors, model_path: Path) -> str:
    """Return the floating-point dtype with the most bytes among the tensors that are not quantized,
    under its name in the format. Raises `ModelError` if no tensor has a floating-point dtype.

    A quantized checkpoint with float32 tensors counts as bfloat16, because most of its weights have
    less precision.
    """
    dtype = main_dtype(tensors.plain)
    if dtype is None:
        raise ModelError(
            f"{model_path}: no tensor has one of the dtypes {', '.join(FLOAT_BYTES)}.",
            "Use a checkpoint that is not quantized.",
        )
    return "BF16" if tensors.quantized and dtype in {"F32", "F64"} else dtype


def check_checkpoint(model_path: Path, spec: ModelSpec | None = None) -> None:
    """Check the headers of all weight files as a loader does. Without a spec, the names and shapes
    of the tensors are not checked. Raises `ModelError`.
    """
    with open_checkpoint(model_path) as checkpoint:
        main_dtype_of(checkpoint.tensors, model_path)
        if spec is not None:
            file_order(spec, checkpoint)


def _named(path: Path, error: ModelError) -> ModelError:
    return error if str(path) in error.cause else ModelError(f"{path}: {error.cause}", error.remedy)
