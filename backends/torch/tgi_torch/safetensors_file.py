"""Reading safetensors files in place: the header first, then each tensor as a view of the mapped file.

Format: 8 bytes little-endian header length, a JSON object name -> {dtype, shape, data_offsets}, then the data
(https://github.com/huggingface/safetensors, "Format"). The pages read are given back with `release`, so that a file larger
than the memory can be read through.
"""

from __future__ import annotations

import math
import mmap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import msgspec
import torch
from torch import Tensor

from tgi.backend import ModelError

__all__ = ["FLOAT_DTYPES", "SafetensorsFile", "StoredTensor"]

FLOAT_DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
)
"""Stored dtypes that a parameter can be read from."""

_DOWNLOAD_AGAIN = "The file is damaged or was not downloaded completely: fetch it again."
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


class _Entry(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@final
@dataclass(frozen=True)
class StoredTensor:
    """What the header says of one tensor."""

    name: str
    dtype: str  # as the format spells it, e.g. BF16
    shape: tuple[int, ...]
    start: int  # of its bytes in the file
    num_bytes: int


@final
class SafetensorsFile:
    """One file, mapped. Raises `ModelError` naming file and tensor if its header does not fit its size."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                file_bytes = path.stat().st_size
                if file_bytes < _LENGTH_BYTES:
                    raise ModelError(f"{path}: the file has {file_bytes} bytes, too few for a safetensors file.", _DOWNLOAD_AGAIN)
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {error.strerror}.", "Check the file and its permissions.") from error
        self.tensors = MappingProxyType(self._read_header())

    def view(self, stored: StoredTensor) -> Tensor:
        """The tensor as a view of the mapping, to be copied from and never written to. Drop it before `close`.

        Raises `ModelError` if its dtype is not one of `FLOAT_DTYPES`.
        """
        dtype = FLOAT_DTYPES.get(stored.dtype)
        if dtype is None:
            raise ModelError(
                f"{self.path}: tensor `{stored.name}` has dtype {stored.dtype}, allowed are {', '.join(FLOAT_DTYPES)}.",
                "Use a checkpoint that is not quantized.",
            )
        if not stored.num_bytes:
            return torch.empty(stored.shape, dtype=dtype)
        with warnings.catch_warnings():
            # A private writable mapping would need no such promise, but the system would count it as memory in use.
            warnings.filterwarnings("ignore", message="The given buffer is not writable", category=UserWarning)
            flat = torch.frombuffer(self._map, dtype=torch.uint8, count=stored.num_bytes, offset=stored.start)
        # The format does not promise that data is aligned to its element size.
        if stored.start % dtype.itemsize:
            flat = flat.clone()
        return flat.view(dtype).view(stored.shape)

    def release(self) -> None:
        """Give the pages read so far back to the system; views stay valid and are read again when touched."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Unmap. No view may be alive."""
        self._map.close()

    def _read_header(self) -> dict[str, StoredTensor]:
        header_bytes = int.from_bytes(self._map[:_LENGTH_BYTES], "little")
        data_start = _LENGTH_BYTES + header_bytes
        if header_bytes > _MAX_HEADER_BYTES or data_start > len(self._map):
            raise ModelError(
                f"{self.path}: the header claims {header_bytes} bytes, the file has {len(self._map)}.", _DOWNLOAD_AGAIN
            )
        try:
            header = msgspec.json.decode(self._map[_LENGTH_BYTES:data_start], type=dict[str, Any])
            header.pop("__metadata__", None)
            entries = msgspec.convert(header, dict[str, _Entry])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ModelError(f"{self.path}: the header cannot be parsed: {error}.", _DOWNLOAD_AGAIN) from error
        return {name: self._check(name, entry, data_start) for name, entry in entries.items()}

    def _check(self, name: str, entry: _Entry, data_start: int) -> StoredTensor:
        start, stop = entry.data_offsets
        if start < 0 or stop < start or min(entry.shape, default=0) < 0:
            raise ModelError(f"{self.path}: tensor `{name}` has offsets [{start}, {stop}], shape {entry.shape}.", _DOWNLOAD_AGAIN)
        if data_start + stop > len(self._map):
            raise ModelError(
                f"{self.path}: tensor `{name}` ends at byte {data_start + stop}, the file has {len(self._map)}.", _DOWNLOAD_AGAIN
            )
        dtype = FLOAT_DTYPES.get(entry.dtype)
        if dtype is not None and math.prod(entry.shape) * dtype.itemsize != stop - start:
            raise ModelError(
                f"{self.path}: tensor `{name}` of shape {list(entry.shape)} and dtype {entry.dtype} "
                f"needs {math.prod(entry.shape) * dtype.itemsize} bytes, the header gives it {stop - start}.",
                _DOWNLOAD_AGAIN,
            )
        return StoredTensor(name, entry.dtype, entry.shape, data_start + start, stop - start)
