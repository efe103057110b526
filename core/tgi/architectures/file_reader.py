"""Reads the files of a model. The files may be damaged or written by an attacker.

Only regular files of limited size are read. A FIFO or a device is therefore reported as an error,
and startup does not hang. File names that are read from another file are resolved only by
`path_in_folder`.
"""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from tgi.errors import ModelError

__all__ = [
    "MAX_JSON_BYTES",
    "check_pointer",
    "open_regular",
    "path_in_folder",
    "read_json_object",
    "read_limited",
    "shown",
]

MAX_JSON_BYTES = 16 << 20
"""Maximum size of a JSON file that describes a model. The largest published files have 2 MB."""

_MAX_JSON_DEPTH = 100
_LFS_START = b"version https://git-lfs.github.com/spec/"
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DOWNLOAD_AGAIN = "Download the file again."
_MAX_SHOWN = 120  # characters of a name in an error message


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading. Symbolic links are followed.

    Raises `ModelError` if the file cannot be opened or is a FIFO, a device, a socket or a folder.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise ModelError(
        f"{shown(path)}: this is {_kind(mode)}, not a regular file.",
        "Replace it by the model's own file.",
    )


def read_limited(path: Path, max_bytes: int) -> bytes:
    """Read a whole regular file. Raises `ModelError` if it has more than `max_bytes` bytes or is a
    Git LFS pointer.
    """
    with open_regular(path) as file:
        # The size in the file system can be wrong, so the limit also applies to the bytes that are
        # read.
        data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            num_bytes = os.fstat(file.fileno()).st_size
            raise ModelError(
                f"{shown(path)}: the file has {num_bytes} bytes, but the limit is {max_bytes}.",
                _DOWNLOAD_AGAIN,
            )
    check_pointer(path, data)
    return data


def check_pointer(path: Path, start: bytes) -> None:
    """Raise `ModelError` if a file that begins with `start` is a Git LFS pointer."""
    if start.startswith(_LFS_START):
        raise ModelError(
            f"{shown(path)}: this is a Git LFS pointer, not the file itself.",
            "Run `git lfs pull` in the folder of the model.",
        )


def read_json_object(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file by the rules of transformers: UTF-8 without a byte order mark,
    and the numbers NaN, Infinity and -Infinity are allowed.

    Raises `ModelError` with the name of the file.
    """
    data = read_limited(path, MAX_JSON_BYTES)
    if data.startswith(_BYTE_ORDER_MARK):
        raise ModelError(
            f"{shown(path)}: the file begins with a byte order mark.",
            "Save it as UTF-8 without a byte order mark.",
        )
    if _depth(data) > _MAX_JSON_DEPTH:
        raise ModelError(
            f"{shown(path)}: the JSON is nested more than {_MAX_JSON_DEPTH} levels deep.",
            _DOWNLOAD_AGAIN,
        )
    try:
        value = json.loads(data.decode("utf-8"))
    except ValueError as error:
        raise ModelError(
            f"{shown(path)}: the file cannot be read as a JSON object: it is not valid JSON:"
            f" {error}.",
            _DOWNLOAD_AGAIN,
        ) from error
    if not isinstance(value, dict):
        raise ModelError(
            f"{shown(path)}: the file cannot be read as a JSON object: it must contain a JSON"
            f" object. Given: {type(value).__name__}.",
            _DOWNLOAD_AGAIN,
        )
    return value


def path_in_folder(folder: Path, name: str, named_by: str) -> Path:
    """The path of the file `name` in `folder` or one of its subfolders.

    `named_by` is the file that contains the name, for the error message. Raises `ModelError` if the
    name is absolute or leaves the folder. The file is not opened. The target of a symbolic link
    must be in the folder, or in the repository of the hub's cache to which the folder belongs.
    """
    parts = PurePosixPath(name).parts
    has_foreign_parts = ".." in parts or "\\" in name or "\0" in name
    if not parts or PurePosixPath(name).is_absolute() or has_foreign_parts:
        raise _points_outside(folder, name, named_by)
    path = folder.joinpath(*parts)
    try:
        target, root = path.resolve(), folder.resolve()
    except (OSError, RuntimeError) as error:
        raise _unreadable(path, error) from error
    if not any(target.is_relative_to(allowed) for allowed in _roots(root)):
        raise _points_outside(folder, name, named_by)
    return path


def shown(path: Path | str) -> str:
    """Format a path or a name for an error message. The middle of a long name is omitted."""
    text = str(path)
    return text if len(text) <= 2 * _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…{text[-_MAX_SHOWN:]}"


def _roots(folder: Path) -> tuple[Path, ...]:
    """Return the folder. In the cache of the hub also return the repository, because
    `snapshots/COMMIT` contains links to `blobs`.
    """
    is_snapshot = folder.parent.name == "snapshots" and (folder.parent.parent / "blobs").is_dir()
    return (folder, folder.parent.parent / "blobs") if is_snapshot else (folder,)


def _points_outside(folder: Path, name: str, named_by: str) -> ModelError:
    return ModelError(
        f"{shown(folder / named_by)}: the file points outside the folder of the model:"
        f" `{shown(name)}`.",
        "Copy all files of the model into one folder, or download it again.",
    )


def _unreadable(path: Path, error: Exception) -> ModelError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        reason = f"the symbolic link points to {shown(path.readlink())}, which does not exist"
    return ModelError(
        f"{shown(path)}: cannot be read: {reason}.", "Check the file and its permissions."
    )


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFIFO: "a FIFO",
        stat.S_IFDIR: "a folder",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "a special file")


def _depth(data: bytes) -> int:
    """Return the maximum nesting depth of arrays and objects. For invalid JSON the result may be
    too high.
    """
    depth = deepest = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", data)):
        depth += 1 if bracket in (b"[", b"{") else -1
        deepest = max(deepest, depth)
    return deepest
