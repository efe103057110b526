"""Reads the names and headers of a checkpoint's safetensors files, without their data.
Format: 8 bytes little-endian header length, a JSON object name -> {dtype, shape, data_offsets},
then the data (https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import msgspec

from tgi.errors import ModelError

__all__ = [
    "FLOAT_BYTES",
    "INDEX_NAME",
    "StoredTensor",
    "main_dtype",
    "read_header",
    "read_index",
    "stored_tensors",
    "weight_files",
]

FLOAT_BYTES: Mapping[str, int] = MappingProxyType({"F64": 8, "F32": 4, "F16": 2, "BF16": 2})
"""Stored dtypes from which a parameter can be read, and the size of a value in bytes."""

INDEX_NAME = "model.safetensors.index.json"
_SINGLE_NAME = "model.safetensors"
_PICKLED = ("*.bin", "*.pt", "*.pth")
_DOWNLOAD_AGAIN = "The file is damaged or was not downloaded completely: download it again."
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class _Entry(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@final
@dataclass(frozen=True)
class StoredTensor:
    """The header entry of one tensor."""

    name: str
    dtype: str  # under its name in the format, for example BF16
    shape: tuple[int, ...]
    start: int  # offset of its data in the file, in bytes
    num_bytes: int


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Read the tensors of one file by name.

    Raises `ModelError` with the names of file and tensor if the header does not match the file's
    size.
    """
    try:
        with path.open("rb") as file:
            file_bytes = path.stat().st_size
            if file_bytes < _LENGTH_BYTES:
                raise ModelError(
                    f"{path}: the file has {file_bytes} bytes, too few for a safetensors file.",
                    _DOWNLOAD_AGAIN,
                )
            header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            data_start = _LENGTH_BYTES + header_bytes
            if header_bytes > _MAX_HEADER_BYTES or data_start > file_bytes:
                raise ModelError(
                    f"{path}: the header claims {header_bytes} bytes, the file has {file_bytes}.",
                    _DOWNLOAD_AGAIN,
                )
            text = file.read(header_bytes)
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read: {error.strerror}.", "Check the file and its permissions."
        ) from error
    try:
        header = msgspec.json.decode(text, type=dict[str, Any])
        header.pop("__metadata__", None)
        entries = msgspec.convert(header, dict[str, _Entry])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{path}: the header cannot be parsed: {error}.", _DOWNLOAD_AGAIN
        ) from error
    return {
        name: _checked(path, name, entry, data_start, file_bytes) for name, entry in entries.items()
    }


def _checked(
    path: Path, name: str, entry: _Entry, data_start: int, file_bytes: int
) -> StoredTensor:
    start, stop = entry.data_offsets
    if start < 0 or stop < start or min(entry.shape, default=0) < 0:
        raise ModelError(
            f"{path}: tensor `{name}` has offsets [{start}, {stop}], shape {entry.shape}.",
            _DOWNLOAD_AGAIN,
        )
    if data_start + stop > file_bytes:
        raise ModelError(
            f"{path}: tensor `{name}` ends at byte {data_start + stop}, the file has {file_bytes}.",
            _DOWNLOAD_AGAIN,
        )
    value_bytes = FLOAT_BYTES.get(entry.dtype)
    if value_bytes is not None and math.prod(entry.shape) * value_bytes != stop - start:
        raise ModelError(
            f"{path}: tensor `{name}` of shape {list(entry.shape)} and dtype {entry.dtype} needs"
            f" {math.prod(entry.shape) * value_bytes} bytes, the header gives it {stop - start}.",
            _DOWNLOAD_AGAIN,
        )
    return StoredTensor(name, entry.dtype, entry.shape, data_start + start, stop - start)


def read_index(model_path: Path) -> Mapping[str, str]:
    """Read the index: tensor name to file name. Empty if the checkpoint has no index."""
    path = model_path / INDEX_NAME
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Index).weight_map
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{path}: the index cannot be read: {error}.", "Download the file again."
        ) from error


def weight_files(model_path: Path, index: Mapping[str, str]) -> list[Path]:
    """The paths of a checkpoint's safetensors files.

    Raises `ModelError` if there are none, or if a file of the index is missing.
    """
    if index:
        paths = sorted({model_path / name for name in index.values()})
    elif (model_path / _SINGLE_NAME).exists():
        paths = [model_path / _SINGLE_NAME]
    else:
        paths = sorted(model_path.glob("*.safetensors"))
    if not paths:
        if any(any(model_path.glob(pattern)) for pattern in _PICKLED):
            raise ModelError(
                f"{model_path}: there is no .safetensors file, only pickled weights, which are"
                " never loaded.",
                f"Convert them once: tgi convert {model_path}",
            )
        raise ModelError(
            f"{model_path}: there is no .safetensors file.",
            "Choose a checkpoint that has one, or download other weights and run `tgi convert`.",
        )
    for path in paths:
        if not path.exists():
            raise ModelError(
                f"{path}: {INDEX_NAME} names this file, but it is missing.",
                "Download the whole checkpoint.",
            )
    return paths


def stored_tensors(model_path: Path) -> dict[str, StoredTensor]:
    """Read all tensors of a checkpoint by name, from the headers alone. Raises `ModelError`."""
    tensors: dict[str, StoredTensor] = {}
    for path in weight_files(model_path, read_index(model_path)):
        tensors |= read_header(path)
    return tensors


def main_dtype(tensors: Mapping[str, StoredTensor]) -> str | None:
    """The floating-point dtype of most bytes, under its name in the format.

    None if no tensor has a floating-point dtype.
    """
    num_bytes: Counter[str] = Counter()
    for stored in tensors.values():
        if stored.dtype in FLOAT_BYTES:
            num_bytes[stored.dtype] += stored.num_bytes
    return num_bytes.most_common(1)[0][0] if num_bytes else None
