"""Reading safetensors files in place: the header first, then each tensor as a view of the mapped
file.

The pages read are given back with `release`, so that a file larger than the memory can be read
through.
"""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import final

import torch
from torch import Tensor

from tgi.architectures.checkpoint import StoredTensor, read_header
from tgi.backend import ModelError

__all__ = ["FLOAT_DTYPES", "SafetensorsFile"]

FLOAT_DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
)
"""Stored dtypes that a parameter can be read from."""


@final
class SafetensorsFile:
    """One file, mapped. Raises `ModelError` naming file and tensor if its header does not fit its
    size.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors = MappingProxyType(read_header(path))
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def view(self, stored: StoredTensor) -> Tensor:
        """The tensor as a view of the mapping, to be copied from and never written to. Drop it
        before `close`.

        Raises `ModelError` if its dtype is not one of `FLOAT_DTYPES`.
        """
        dtype = FLOAT_DTYPES.get(stored.dtype)
        if dtype is None:
            raise ModelError(
                f"{self.path}: tensor `{stored.name}` has dtype {stored.dtype}, allowed are"
                f" {', '.join(FLOAT_DTYPES)}.",
                "Use a checkpoint that is not quantized.",
            )
        if not stored.num_bytes:
            return torch.empty(stored.shape, dtype=dtype)
        with warnings.catch_warnings():
            # A private writable mapping would need no such promise, but the system would count it
            # as memory in use.
            warnings.filterwarnings(
                "ignore", message="The given buffer is not writable", category=UserWarning
            )
            flat = torch.frombuffer(
                self._map, dtype=torch.uint8, count=stored.num_bytes, offset=stored.start
            )
        # The format does not promise that data is aligned to its element size.
        if stored.start % dtype.itemsize:
            flat = flat.clone()
        return flat.view(dtype).view(stored.shape)

    def release(self) -> None:
        """Give the pages read so far back to the system; views stay valid and are read again when
        touched.
        """
        self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Unmap. No view may be alive."""
        self._map.close()
