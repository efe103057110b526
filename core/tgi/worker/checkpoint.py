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
from tgi.worker.safetensors_file import MappedTensor, close_files, map_checkpoint

__all__ = ["check_checkpoint", "file_order", "main_dtype_of"]


def file_order(
    spec: ModelSpec, tensors: Mapping[str, MappedTensor], model_path: Path
) -> list[Placement]:
    """Return the placements of the tensors in the order of the files, so that a disk is read
    sequentially.

    Raises `ModelError` with the file and the tensor if a tensor is missing, unknown, or has the
    wrong shape or dtype.
    """
    try:
        todo = placements(spec, tensors.keys(), lambda name: tensors[name].is_zero)
    except ModelError as error:
        raise _named(model_path, error) from error
    todo.sort(key=lambda item: (tensors[item.name].file.path, tensors[item.name].stored.start))
    for placement in todo:
        tensor = tensors[placement.name]
        tensor.dtype_of(FLOAT_BYTES)
        try:
            check_shape(tensor.stored.shape, placement)
        except ModelError as error:
            raise _named(tensor.file.path, error) from error
    return todo


def main_dtype_of(tensors: Mapping[str, MappedTensor], model_path: Path) -> str:
    """Return the floating-point dtype with the most bytes, under its name in the format. Raises
    `ModelError` if no tensor has a floating-point dtype.
    """
    dtype = main_dtype({name: tensor.stored for name, tensor in tensors.items()})
    if dtype is None:
        raise ModelError(
            f"{model_path}: no tensor has one of the dtypes {', '.join(FLOAT_BYTES)}.",
            "Use a checkpoint that is not quantized.",
        )
    return dtype


def check_checkpoint(model_path: Path, spec: ModelSpec | None = None) -> None:
    """Check the headers of all weight files as a loader does. Without a spec, the names and shapes
    of the tensors are not checked. Raises `ModelError`.
    """
    tensors = map_checkpoint(model_path)
    try:
        main_dtype_of(tensors, model_path)
        if spec is not None:
            file_order(spec, tensors, model_path)
    finally:
        close_files(tensors)


def _named(path: Path, error: ModelError) -> ModelError:
    return error if str(path) in error.cause else ModelError(f"{path}: {error.cause}", error.remedy)
