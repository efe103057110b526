"""Reads numbers, strings and arrays of a GGUF file from a buffer, with limits on their sizes."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import final

import numpy as np
import numpy.typing as npt

from tgi.errors import ModelError

__all__ = ["ByteReader", "Value"]

Value = bool | int | float | str | list[str] | npt.NDArray[np.generic]
"""A value of the metadata. Arrays of numbers are numpy arrays."""

_DOWNLOAD_AGAIN = "The file is damaged or was not downloaded completely: download it again."
_MAX_STRING_BYTES = 16 << 20  # chat templates have up to 100 kB
_MAX_STRINGS = 1_000_000  # tokens and merges; the largest published vocabularies have 650,000
_MAX_HEADER_BYTES = 128 << 20  # the largest published files have 20 MB before the tensors

_FLOAT32, _STRING, _ARRAY = 6, 8, 9
_NUMBERS: Mapping[int, npt.DTypeLike] = MappingProxyType(
    {
        0: "<u1",
        1: "<i1",
        2: "<u2",
        3: "<i2",
        4: "<u4",
        5: "<i4",
        6: "<f4",
        7: "?",
        10: "<u8",
        11: "<i8",
        12: "<f8",
    }
)
"""The dtypes of the value types of numbers and booleans."""


@final
class ByteReader:
    """Reads the values at an increasing offset of `data`.

    Every method raises `ModelError` with the name of the file if the value ends after the end of
    the file or exceeds a limit.
    """

    def __init__(self, data: mmap.mmap, where: str) -> None:
        self.offset = 0
        self._data = data
        self._where = where
        self._num_strings = 0

    def integer(self, num_bytes: int, what: str) -> int:
        """Read an unsigned integer. `what` is its name in error messages."""
        self._check(num_bytes, what)
        start = self.offset
        self.offset += num_bytes
        return int.from_bytes(self._data[start : self.offset], "little")

    def string(self, what: str, max_bytes: int = _MAX_STRING_BYTES) -> str:
        """Read a string in UTF-8, preceded by its length in 8 bytes."""
        self._num_strings += 1
        if self._num_strings > _MAX_STRINGS:
            raise self.error(f"the metadata contains more than {_MAX_STRINGS} strings")
        return self._text(what, max_bytes)

    def value(self, what: str) -> Value:
        """Read a value of the metadata, preceded by its type."""
        kind = self.integer(4, what)
        if kind == _ARRAY:
            return self._array(what)
        if kind == _STRING:
            return self.string(what)
        [number] = self._numbers(kind, 1, what)
        # The shortest decimal number with this float32: 1e-05 instead of 9.99999974e-06.
        value: bool | int | float = float(str(number)) if kind == _FLOAT32 else number.item()
        return value

    def error(self, cause: str) -> ModelError:
        """Create the error for a damaged file."""
        return ModelError(f"{self._where}: {cause}.", _DOWNLOAD_AGAIN)

    def _array(self, what: str) -> Value:
        kind, count = self.integer(4, what), self.integer(8, what)
        if kind == _ARRAY:
            raise self.error(f"{what} is an array of arrays, which no known key has")
        if kind != _STRING:
            return self._numbers(kind, count, what)
        self._num_strings += count
        if self._num_strings > _MAX_STRINGS:
            raise self.error(
                f"{what} has {count} strings, but the limit of all metadata is {_MAX_STRINGS}"
            )
        return [self._text(what, _MAX_STRING_BYTES) for _ in range(count)]

    def _numbers(self, kind: int, count: int, what: str) -> npt.NDArray[np.generic]:
        if kind not in _NUMBERS:
            raise self.error(f"{what} has the unknown value type {kind}")
        dtype = np.dtype(_NUMBERS[kind])
        self._check(count * dtype.itemsize, what)
        numbers = np.frombuffer(
            self._data[self.offset : self.offset + count * dtype.itemsize], dtype, count
        )
        self.offset += count * dtype.itemsize
        return numbers

    def _text(self, what: str, max_bytes: int) -> str:
        offset, data = self.offset, self._data
        start = offset + 8
        if start > len(data):
            raise self._truncated(what)
        (num_bytes,) = struct.unpack_from("<Q", data, offset)
        stop = start + num_bytes
        left = min(len(data), _MAX_HEADER_BYTES) - start
        if num_bytes > max_bytes or num_bytes > left:
            raise self.error(
                f"{what} has a string of {num_bytes} bytes, but the limit is {max_bytes} and"
                f" {max(0, left)} bytes are left for the metadata"
            )
        self.offset = stop
        try:
            return data[start:stop].decode()
        except UnicodeDecodeError as error:
            raise self.error(f"{what} contains a string that is not UTF-8: {error}") from error

    def _check(self, num_bytes: int, what: str) -> None:
        end = self.offset + num_bytes
        if end > len(self._data):
            raise self._truncated(what)
        if end > _MAX_HEADER_BYTES:
            raise self.error(
                f"{what} ends at byte {end}, but the limit of all metadata is {_MAX_HEADER_BYTES}"
            )

    def _truncated(self, what: str) -> ModelError:
        return self.error(f"the file ends at byte {len(self._data)}, inside of {what}")
