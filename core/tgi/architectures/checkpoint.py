"""Reads the names and headers of a checkpoint's safetensors files, without their data.
Format: 8 bytes little-endian header length, a JSON object name -> {dtype, shape, data_offsets},
then the data (https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import msgspec
from safetensors import SafetensorError, safe_open

from tgi.architectures.file_reader import (
    check_pointer,
    open_regular,
    path_in_folder,
    read_json_object,
    read_limited,
    shown,
)
from tgi.errors import ModelError

__all__ = [
    "ADAPTER_CONFIG_NAME",
    "DTYPE_BYTES",
    "FLOAT_BYTES",
    "INDEX_NAME",
    "StoredTensor",
    "adapter_error",
    "main_dtype",
    "read_header",
    "read_index",
    "stored_tensors",
    "weight_files",
]

FLOAT_BYTES: Mapping[str, int] = MappingProxyType({"F64": 8, "F32": 4, "F16": 2, "BF16": 2})
"""Stored dtypes from which a parameter can be read, and the size of a value in bytes."""

DTYPE_BYTES: Mapping[str, int] = MappingProxyType(
    {
        **FLOAT_BYTES,
        **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
        **dict.fromkeys(("BOOL", "I8", "U8"), 1),
        **dict.fromkeys(("I16", "U16"), 2),
        **dict.fromkeys(("I32", "U32"), 4),
        **dict.fromkeys(("I64", "U64", "C64"), 8),
    }
)
"""The stored dtypes whose values are whole bytes, and the size of a value in bytes."""

INDEX_NAME = "model.safetensors.index.json"
_SINGLE_NAME = "model.safetensors"
ADAPTER_CONFIG_NAME = "adapter_config.json"
_ADAPTER = "adapter_model*.safetensors"
_ORIGINAL = "consolidated*.safetensors"
_GGUF = "*.gguf"
_PICKLED = ("*.bin", "*.pt", "*.pth")
_DOWNLOAD_AGAIN = "The file is damaged or was not downloaded completely: download it again."
_LENGTH_BYTES = 8
_POINTER_BYTES = 64  # a Git LFS pointer can be recognized by this many bytes
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_MAX_HEADER_OBJECTS = 200_000  # one per tensor; the largest published files have about 10,000
_MAX_DIMENSIONS = 16
_MAX_INDEX_BYTES = 64 << 20  # the largest published index files have 20 MB


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
    dtype: str  # name of the dtype in the format, for example BF16
    shape: tuple[int, ...]
    start: int  # offset of the tensor's data in the file, in bytes
    num_bytes: int


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Read the tensors of one file by name.

    Raises `ModelError` with the names of file and tensor if the header does not match the file's
    size, or if the safetensors library rejects the file.
    """
    with open_regular(path) as file:
        file_bytes = os.fstat(file.fileno()).st_size
        start = file.read(_POINTER_BYTES)
        check_pointer(path, start)
        if file_bytes < _LENGTH_BYTES:
            raise ModelError(
                f"{shown(path)}: the file has only {file_bytes} bytes and is no safetensors file.",
                _DOWNLOAD_AGAIN,
            )
        header_bytes = int.from_bytes(start[:_LENGTH_BYTES], "little")
        data_start = _LENGTH_BYTES + header_bytes
        if header_bytes > _MAX_HEADER_BYTES or data_start > file_bytes:
            raise ModelError(
                f"{shown(path)}: the header should have {header_bytes} bytes, but the file has"
                f" {file_bytes} and the limit is {_MAX_HEADER_BYTES}.",
                _DOWNLOAD_AGAIN,
            )
        file.seek(_LENGTH_BYTES)
        text = file.read(header_bytes)
    entries = _parse_header(path, text)
    tensors = {
        name: _checked(path, name, entry, data_start, file_bytes) for name, entry in entries.items()
    }
    _check_data(path, tensors, data_start, file_bytes)
    _check_by_library(path)
    return tensors


def _parse_header(path: Path, text: bytes) -> dict[str, _Entry]:
    num_objects = text.count(b"{")
    if num_objects > _MAX_HEADER_OBJECTS:
        raise ModelError(
            f"{shown(path)}: the header contains {num_objects} objects, but the limit is"
            f" {_MAX_HEADER_OBJECTS}.",
            "Split the checkpoint into several files.",
        )
    try:
        header = msgspec.json.decode(text, type=dict[str, Any])
        header.pop("__metadata__", None)
        return msgspec.convert(header, dict[str, _Entry])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(
            f"{shown(path)}: the header cannot be parsed: {error}.", _DOWNLOAD_AGAIN
        ) from error


def _checked(
    path: Path, name: str, entry: _Entry, data_start: int, file_bytes: int
) -> StoredTensor:
    start, stop = entry.data_offsets
    if start < 0 or stop < start or min(entry.shape, default=0) < 0:
        raise ModelError(
            f"{shown(path)}: tensor `{shown(name)}` has offsets [{start}, {stop}], shape"
            f" {_some_sizes(entry.shape)}.",
            _DOWNLOAD_AGAIN,
        )
    if data_start + stop > file_bytes:
        raise ModelError(
            f"{shown(path)}: tensor `{shown(name)}` ends at byte {data_start + stop}, but the file"
            f" has {file_bytes} bytes.",
            _DOWNLOAD_AGAIN,
        )
    value_bytes = DTYPE_BYTES.get(entry.dtype)
    if value_bytes is not None and not _fits(entry.shape, value_bytes, stop - start):
        raise ModelError(
            f"{shown(path)}: tensor `{shown(name)}` of shape {_some_sizes(entry.shape)} and dtype"
            f" {entry.dtype} needs {_num_bytes_text(entry.shape, value_bytes)}, but the header"
            f" lists {stop - start}.",
            _DOWNLOAD_AGAIN,
        )
    return StoredTensor(name, entry.dtype, entry.shape, data_start + start, stop - start)


def _fits(shape: tuple[int, ...], value_bytes: int, num_bytes: int) -> bool:
    """Whether a tensor has `num_bytes` bytes. The number of dimensions is limited, because the
    product of many large sizes would take seconds.
    """
    if len(shape) > _MAX_DIMENSIONS:
        return False
    return math.prod(shape) * value_bytes == num_bytes


def _num_bytes_text(shape: tuple[int, ...], value_bytes: int) -> str:
    if len(shape) > _MAX_DIMENSIONS:
        return f"more than {_MAX_DIMENSIONS} dimensions"
    return f"{math.prod(shape) * value_bytes} bytes"


def _some_sizes(shape: tuple[int, ...]) -> str:
    return str(list(shape)) if len(shape) <= _MAX_DIMENSIONS else f"with {len(shape)} dimensions"


def _check_data(
    path: Path, tensors: Mapping[str, StoredTensor], data_start: int, file_bytes: int
) -> None:
    """Check that the tensors fill the file without a gap, from the header to the end of the file.
    Raises `ModelError`.
    """
    end = data_start
    for stored in sorted(tensors.values(), key=lambda stored: (stored.start, stored.num_bytes)):
        if stored.start != end:
            problem = "overlaps another tensor" if stored.start < end else "follows unused bytes"
            raise ModelError(
                f"{shown(path)}: tensor `{shown(stored.name)}` {problem}: it starts at byte"
                f" {stored.start}, but the tensor before it ends at byte {end}.",
                _DOWNLOAD_AGAIN,
            )
        end += stored.num_bytes
    if end != file_bytes:
        raise ModelError(
            f"{shown(path)}: the last tensor ends at byte {end}, but the file has"
            f" {file_bytes} bytes.",
            _DOWNLOAD_AGAIN,
        )


def _check_by_library(path: Path) -> None:
    """Apply the rules of the safetensors library, so that this server reads no file that the
    library rejects.
    """
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError, UnicodeError) as error:
        raise ModelError(
            f"{shown(path)}: the safetensors library rejects the file: {shown(str(error))}.",
            _DOWNLOAD_AGAIN,
        ) from error


def read_index(model_path: Path) -> Mapping[str, str]:
    """Read the index: tensor name to file name.

    The result is empty if the checkpoint has no index, or if it has a file with the usual name for
    unsharded weights. As in transformers, this file takes precedence over an index. Raises
    `ModelError` if the index cannot be read.
    """
    path = model_path / INDEX_NAME
    if os.path.lexists(model_path / _SINGLE_NAME) or not os.path.lexists(path):
        return {}
    try:
        return msgspec.json.decode(read_limited(path, _MAX_INDEX_BYTES), type=_Index).weight_map
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(
            f"{path}: the index cannot be read: {error}.", "Download the file again."
        ) from error


def weight_files(model_path: Path, index: Mapping[str, str]) -> list[Path]:
    """The paths of a checkpoint's safetensors files.

    Raises `ModelError` if there are no such files, or if a file of the index is missing or outside
    of the folder.
    """
    if index:
        names = sorted(set(index.values()))
        paths = sorted({path_in_folder(model_path, name, INDEX_NAME) for name in names})
    elif os.path.lexists(model_path / _SINGLE_NAME):
        paths = [model_path / _SINGLE_NAME]
    else:
        paths = sorted(set(model_path.glob("*.safetensors")) - set(model_path.glob(_ADAPTER)))
        # The same weights with other names, which Mistral publishes beside those of transformers.
        original = set(model_path.glob(_ORIGINAL))
        paths = [path for path in paths if path not in original] or paths
    if not paths:
        raise _no_weights(model_path)
    for path in paths:
        if not os.path.lexists(path):
            raise ModelError(
                f"{shown(path)}: {INDEX_NAME} names this file, but it is missing.",
                "Download the whole checkpoint.",
            )
    return paths


def _no_weights(model_path: Path) -> ModelError:
    if any(model_path.glob(_ADAPTER)):
        return adapter_error(model_path)
    if any(any(model_path.glob(pattern)) for pattern in _PICKLED):
        return ModelError(
            f"{model_path}: there is no .safetensors file, only pickled weights, which are"
            " never loaded.",
            f"Convert them once: tgi convert {model_path}",
        )
    if any(model_path.glob(_GGUF)):
        return ModelError(
            f"{model_path}: there is no .safetensors file, only GGUF files.",
            "Name the original model, or choose a backend that reads GGUF files.",
        )
    return ModelError(
        f"{model_path}: there is no .safetensors file.",
        "Choose a checkpoint that has one, or download other weights and run `tgi convert`.",
    )


def adapter_error(folder: Path) -> ModelError:
    """Create the error for a folder that contains a LoRA adapter instead of a model."""
    base: object = None
    path = folder / ADAPTER_CONFIG_NAME
    if os.path.lexists(path):
        base = read_json_object(path).get("base_model_name_or_path")
    of_base = f" of `{shown(base)}`" if isinstance(base, str) and base else ""
    return ModelError(
        f"{folder}: the folder contains a LoRA adapter{of_base}, not a whole model.",
        "Merge the adapter into its base model and save the result (peft: merge_and_unload), or"
        " name the base model.",
    )


def stored_tensors(model_path: Path) -> dict[str, StoredTensor]:
    """Read all tensors of a checkpoint by name, from the headers alone. Raises `ModelError`."""
    tensors: dict[str, StoredTensor] = {}
    for path in weight_files(model_path, read_index(model_path)):
        tensors |= read_header(path)
    return tensors


def main_dtype(tensors: Mapping[str, StoredTensor]) -> str | None:
    """Return the floating-point dtype with the most bytes, under its name in the format, or None if
    no tensor has a floating-point dtype.
    """
    num_bytes: Counter[str] = Counter()
    for stored in tensors.values():
        if stored.dtype in FLOAT_BYTES:
            num_bytes[stored.dtype] += stored.num_bytes
    return num_bytes.most_common(1)[0][0] if num_bytes else None
