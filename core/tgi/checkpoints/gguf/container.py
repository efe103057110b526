"""Reads the header of a GGUF file: the metadata, and the names, types, shapes and places of the
tensors. Versions 2 and 3 of the format in little-endian byte order are read.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import final

from tgi.architectures.file_reader import check_pointer, open_regular, shown
from tgi.checkpoints.gguf.block_types import BLOCK_TYPES, BlockType
from tgi.checkpoints.gguf.byte_reader import ByteReader, Value
from tgi.checkpoints.gguf.metadata import Metadata
from tgi.errors import ModelError

__all__ = ["GgufHeader", "GgufTensor", "is_gguf_path", "map_file", "read_gguf"]

SUFFIX = ".gguf"
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_POINTER_BYTES = 64  # a Git LFS pointer can be recognized by this many bytes
_MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
_MAX_TENSORS = 200_000
_MAX_KEYS = 100_000
_MAX_NAME_BYTES = 4096  # of keys and tensors
_MAX_ALIGNMENT = 1 << 20
_DEFAULT_ALIGNMENT = 32
_FACTORS = ("rope_freqs", "rope_factors_")
_MAX_FACTOR_BYTES = 1 << 20
_DIGEST_BYTES = 16


@final
@dataclass(frozen=True)
class GgufTensor:
    """The description of one tensor. `shape` has the order of numpy: the last axis is contiguous.
    GGUF files contain the sizes in reverse order.
    """

    name: str
    block_type: BlockType
    shape: tuple[int, ...]
    start: int  # offset of the tensor's data in the file, in bytes

    @property
    def row_bytes(self) -> int:
        """Size of the last axis in bytes."""
        return self.shape[-1] // self.block_type.num_values * self.block_type.num_bytes

    @property
    def num_bytes(self) -> int:
        """Size of the tensor in bytes."""
        return prod(self.shape[:-1]) * self.row_bytes


@final
@dataclass(frozen=True, eq=False)
class GgufHeader:
    """The content of a file without the data of the tensors. Headers are compared by identity, so
    that results can be cached.
    """

    path: Path
    metadata: Metadata
    tensors: Mapping[str, GgufTensor]
    digest: str  # of the bytes before the tensors and of the rotary factors, in hexadecimal


def is_gguf_path(path: Path) -> bool:
    """Whether the path has the file name of a GGUF file, and is no folder."""
    return path.suffix == SUFFIX and not path.is_dir()


def read_gguf(path: Path) -> GgufHeader:
    """Read the header of a file. Raises `ModelError` with the file and the key or tensor."""
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
    return _read_header(path, (status.st_ino, status.st_mtime_ns, status.st_size))


def map_file(path: Path) -> mmap.mmap:
    """Map a whole file for reading. Raises `ModelError` if the file cannot be opened or is
    empty.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise _no_gguf(path, b"")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@lru_cache(maxsize=2)
def _read_header(path: Path, identity: tuple[int, int, int]) -> GgufHeader:
    """Read the header. A vocabulary has hundreds of thousands of strings, so the header of an
    unchanged file is read once.
    """
    del identity  # the key of the cache
    with map_file(path) as data:
        start = data[:_POINTER_BYTES]
        check_pointer(path, start)
        if not start.startswith(_MAGIC):
            raise _no_gguf(path, start)
        reader = ByteReader(data, shown(path))
        reader.offset = len(_MAGIC)
        _check_version(path, reader.integer(4, "the version"))
        num_tensors = _count(reader, "tensors", _MAX_TENSORS)
        num_keys = _count(reader, "keys of metadata", _MAX_KEYS)
        metadata = Metadata(_read_metadata(reader, num_keys), shown(path))
        _check_split(path, metadata)
        tensors = [_read_tensor(reader) for _ in range(num_tensors)]
        end = reader.offset
        alignment = metadata.integer("general.alignment", default=_DEFAULT_ALIGNMENT)
        if alignment & (alignment - 1) or alignment > _MAX_ALIGNMENT:
            raise metadata.error("general.alignment", f"must be a power of 2 <= {_MAX_ALIGNMENT}")
        data_start = -(-end // alignment) * alignment
        placed = _placed(reader, tensors, data_start, alignment, len(data))
        digest = hashlib.blake2b(data[:end], digest_size=_DIGEST_BYTES)
        for name, tensor in sorted(placed.items()):
            if name.startswith(_FACTORS):  # a part of the config
                num_bytes = min(tensor.num_bytes, _MAX_FACTOR_BYTES)
                digest.update(data[tensor.start : tensor.start + num_bytes])
    return GgufHeader(path, metadata, MappingProxyType(placed), digest.hexdigest())


def _no_gguf(path: Path, start: bytes) -> ModelError:
    return ModelError(
        f"{shown(path)}: the file is no GGUF file: it begins with {start[:4]!r}, not {_MAGIC!r}.",
        "Download the file again, or name another file.",
    )


def _check_version(path: Path, version: int) -> None:
    if version in _VERSIONS:
        return
    swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
    if swapped in _VERSIONS:
        raise ModelError(
            f"{shown(path)}: the file is in big-endian byte order, and only little-endian files"
            " are read.",
            "Download the file for little-endian machines.",
        )
    raise ModelError(
        f"{shown(path)}: the file has version {version} of the GGUF format, and only the versions"
        f" {' and '.join(map(str, _VERSIONS))} are read.",
        "Convert the original model again with a current version of llama.cpp.",
    )


def _count(reader: ByteReader, what: str, limit: int) -> int:
    count = reader.integer(8, f"the number of {what}")
    if count > limit:
        raise reader.error(f"the file should contain {count} {what}, but the limit is {limit}")
    return count


def _read_metadata(reader: ByteReader, num_keys: int) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for index in range(num_keys):
        key = reader.string(f"key {index} of the metadata", _MAX_NAME_BYTES)
        if key in values:
            raise reader.error(f"the key `{shown(key)}` occurs twice in the metadata")
        values[key] = reader.value(f"`{shown(key)}`")
    return values


def _check_split(path: Path, metadata: Metadata) -> None:
    num_files = metadata.integer("split.count", default=1, minimum=0)
    if num_files > 1:
        raise ModelError(
            f"{shown(path)}: the model is split into {num_files} files, and only models in one file"
            " are read.",
            "Merge the files with llama.cpp: llama-gguf-split --merge FIRST_FILE MERGED_FILE",
        )


def _read_tensor(reader: ByteReader) -> GgufTensor:
    """Read the description of a tensor. `start` is not yet an offset in the file, but in the data
    of all tensors.
    """
    name = reader.string("the name of a tensor", _MAX_NAME_BYTES)
    what = f"tensor `{shown(name)}`"
    num_dimensions = reader.integer(4, what)
    if not 0 < num_dimensions <= _MAX_DIMENSIONS:
        raise reader.error(
            f"{what} has {num_dimensions} dimensions, allowed are 1 to {_MAX_DIMENSIONS}"
        )
    sizes = [reader.integer(8, what) for _ in range(num_dimensions)]
    number = reader.integer(4, what)
    block_type = BLOCK_TYPES.get(number)
    if block_type is None:
        raise reader.error(f"{what} has the unknown type {number}")
    if min(sizes) < 1 or sizes[0] % block_type.num_values:
        raise reader.error(
            f"{what} has the sizes {sizes}, but a row of the type {block_type.name} consists of"
            f" blocks of {block_type.num_values} values"
        )
    return GgufTensor(name, block_type, tuple(reversed(sizes)), reader.integer(8, what))


def _placed(
    reader: ByteReader, tensors: list[GgufTensor], data_start: int, alignment: int, file_bytes: int
) -> dict[str, GgufTensor]:
    """Return the tensors by name, with their offsets in the file. Raises `ModelError` if two
    tensors have the same name or overlap, or if a tensor is outside of the file.
    """
    placed: dict[str, GgufTensor] = {}
    end = data_start
    for tensor in sorted(tensors, key=lambda tensor: tensor.start):
        name, start = shown(tensor.name), data_start + tensor.start
        if tensor.name in placed:
            raise reader.error(f"the file contains two tensors with the name `{name}`")
        if start % alignment:
            raise reader.error(
                f"tensor `{name}` starts at byte {start}, which is not a multiple of {alignment}"
            )
        if start < end:
            raise reader.error(
                f"tensor `{name}` overlaps another tensor: it starts at byte {start}, but the"
                f" tensor before it ends at byte {end}"
            )
        end = start + tensor.num_bytes
        if end > file_bytes:
            raise reader.error(
                f"tensor `{name}` ends at byte {end}, but the file has {file_bytes} bytes"
            )
        placed[tensor.name] = GgufTensor(tensor.name, tensor.block_type, tensor.shape, start)
    return placed
