"""Reads safetensors files without copies: first the headers, then tensors as views of the mapped
file.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeVar, final

import numpy as np
import numpy.typing as npt

from tgi.architectures.checkpoint import (
    StoredTensor,
    read_header,
    read_index,
    weight_files,
)
from tgi.errors import ModelError

__all__ = [
    "MappedTensor",
    "SafetensorsFile",
    "WeightFile",
    "close_files",
    "float32_array",
    "map_checkpoint",
    "stored_array",
]

Dtype = TypeVar("Dtype")

_NUMPY_DTYPES: Mapping[str, npt.DTypeLike] = MappingProxyType(
    {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
)
_STORED_DTYPES: Mapping[str, npt.DTypeLike] = MappingProxyType(
    {
        **_NUMPY_DTYPES,
        **{f"I{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
        **{f"U{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
        "BOOL": "?",
    }
)
_BFLOAT16_SHIFT = 16  # bfloat16 is the upper half of float32


class WeightFile(Protocol):
    """A file with tensors. The bytes of a tensor start at `StoredTensor.start` in `mapping`."""

    @property
    def path(self) -> Path:
        """The path of the file, for error messages."""

    @property
    def mapping(self) -> mmap.mmap | bytes:
        """The bytes of the file, or a copy of the bytes of one tensor."""

    def release(self) -> None:
        """Release the memory of the bytes that were read. Views of `mapping` remain valid."""

    def close(self) -> None:
        """Close the file. No view of `mapping` may be in use."""


@final
class SafetensorsFile:
    """One memory-mapped safetensors file. The constructor raises a `ModelError` with the file and
    the tensor if the header is damaged.

    The bytes of a tensor start at `StoredTensor.start` in `mapping`. They are read from the disk at
    their first use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors: Mapping[str, StoredTensor] = MappingProxyType(read_header(path))
        with path.open("rb") as file:
            self.mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def release(self) -> None:
        """Release the memory of the pages that were read. A file that is larger than the memory can
        therefore be read. Views of the mapping remain valid.
        """
        self.mapping.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Unmap the file. No view of the mapping may be in use."""
        self.mapping.close()


@final
@dataclass(frozen=True)
class MappedTensor:
    """A tensor in a mapped file. The bytes of the tensor are read at their first use."""

    file: WeightFile
    stored: StoredTensor

    @property
    def is_zero(self) -> bool:
        """Whether all bytes of the tensor are zero. The bytes are read."""
        start, num_bytes = self.stored.start, self.stored.num_bytes
        return self.file.mapping[start : start + num_bytes].count(0) == num_bytes

    def dtype_of(self, dtypes: Mapping[str, Dtype]) -> Dtype:
        """Return the entry of `dtypes` for the tensor's dtype. Raises `ModelError` if `dtypes` has
        no such entry.
        """
        stored = self.stored
        if stored.dtype not in dtypes:
            raise ModelError(
                f"{self.file.path}: tensor `{stored.name}` has the dtype {stored.dtype}, allowed"
                f" are {', '.join(dtypes)}.",
                "Use a checkpoint that is not quantized.",
            )
        return dtypes[stored.dtype]


def stored_array(tensor: MappedTensor) -> npt.NDArray[Any]:
    """Return the tensor as a view of the mapped file. The view cannot be written.

    A BF16 tensor is returned as uint16. A tensor whose dtype numpy does not have is returned as
    uint8: in its shape if a value is one byte, and otherwise as one row of bytes.
    """
    stored = tensor.stored
    data = np.frombuffer(tensor.file.mapping, np.uint8, stored.num_bytes, stored.start)
    if stored.dtype in _STORED_DTYPES:
        return data.view(_STORED_DTYPES[stored.dtype]).reshape(stored.shape)
    is_bytes = math.prod(stored.shape) == stored.num_bytes
    return data.reshape(stored.shape) if is_bytes else data


def float32_array(tensor: MappedTensor) -> npt.NDArray[np.float32]:
    """Return a copy of the tensor in float32. Raises `ModelError` if the dtype is not a
    floating-point dtype.

    numpy has no bfloat16, so the bits of a bfloat16 tensor are shifted into float32.
    """
    stored, dtype = tensor.stored, tensor.dtype_of(_NUMPY_DTYPES)
    data = np.frombuffer(tensor.file.mapping, np.uint8, stored.num_bytes, stored.start)
    values = data.view(dtype).reshape(stored.shape)
    if stored.dtype == "BF16":
        return (values.astype(np.uint32) << _BFLOAT16_SHIFT).view(np.float32)
    return values.astype(np.float32)


def map_checkpoint(model_path: Path) -> dict[str, MappedTensor]:
    """Return all tensors of a checkpoint by name. The index only names the files: a tensor may be
    in another file than the index lists. Raises a `ModelError` with the file and the tensor if a
    tensor is in two files.
    """
    tensors: dict[str, MappedTensor] = {}
    try:
        for path in weight_files(model_path, read_index(model_path)):
            file = SafetensorsFile(path)
            for name, stored in file.tensors.items():
                if name in tensors:
                    raise ModelError(
                        f"{path}: tensor `{name}` is also in {tensors[name].file.path.name}.",
                        "Keep only the files of one checkpoint in the folder.",
                    )
                tensors[name] = MappedTensor(file, stored)
    except ModelError:
        close_files(tensors)
        raise
    return tensors


def close_files(tensors: Mapping[str, MappedTensor]) -> None:
    """Unmap the files of `tensors`. A file with a view that is still in use, for example in the
    traceback of an error, is unmapped when the last view is deleted.
    """
    for file in {id(tensor.file): tensor.file for tensor in tensors.values()}.values():
        with contextlib.suppress(BufferError):
            file.close()
