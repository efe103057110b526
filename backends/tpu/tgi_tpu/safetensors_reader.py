"""Tensors of a checkpoint as numpy views of its mapped files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tgi.architectures.checkpoint import (
    INDEX_NAME,
    StoredTensor,
    read_header,
    read_index,
    weight_files,
)
from tgi.backend import ModelError

__all__ = ["MappedTensor", "map_checkpoint"]

_DTYPES: Mapping[str, npt.DTypeLike] = MappingProxyType(
    {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
)


@final
@dataclass(frozen=True)
class MappedTensor:
    """A tensor in a mapped file; nothing is read before `view` is used."""

    path: Path
    stored: StoredTensor
    bytes: npt.NDArray[np.uint8]  # the file

    def view(self) -> npt.NDArray[Any]:
        """The tensor in its stored dtype. Raises `ModelError` if that is no floating-point
        dtype.
        """
        stored = self.stored
        if stored.dtype not in _DTYPES:
            raise ModelError(
                f"{self.path}: tensor `{stored.name}` has the dtype {stored.dtype};"
                f" {', '.join(_DTYPES)} can be read.",
                "Use a checkpoint that is not quantized.",
            )
        data = self.bytes[stored.start : stored.start + stored.num_bytes]
        return np.frombuffer(data, _DTYPES[stored.dtype]).reshape(stored.shape)


def map_checkpoint(model_path: Path) -> dict[str, MappedTensor]:
    """All tensors of a checkpoint by name. Raises `ModelError` naming file and tensor where files
    and index do not agree.
    """
    index = read_index(model_path)
    tensors: dict[str, MappedTensor] = {}
    for path in weight_files(model_path, index):
        header = read_header(path)
        mapped = np.memmap(path, np.uint8, mode="r")
        for name, stored in header.items():
            if name in tensors:
                raise ModelError(
                    f"{path}: tensor `{name}` is also in {tensors[name].path.name}.",
                    "Keep the files of one checkpoint in the folder.",
                )
            tensors[name] = MappedTensor(path, stored, mapped)
    for name, file_name in index.items():
        if name not in tensors or tensors[name].path != model_path / file_name:
            raise ModelError(
                f"{model_path / file_name}: tensor `{name}` is not there, though {INDEX_NAME}"
                " says so.",
                "Download the whole checkpoint again.",
            )
    return tensors
