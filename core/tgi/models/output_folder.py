"""Writes a folder completely or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tgi.errors import ConfigError

__all__ = ["check_new_folder", "new_folder"]


def check_new_folder(path: Path) -> None:
    """Raise `ConfigError` if `path` exists, or if its parent folder cannot be written."""
    if os.path.lexists(path):
        raise ConfigError(
            f"The output folder `{path}` exists already.", "Remove it, or name another folder."
        )
    parent = path.absolute().parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        reason = "does not exist" if not parent.exists() else "is not a writable folder"
        raise ConfigError(f"`{parent}`, the parent of the output folder, {reason}.", "Create it.")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, and rename it to `path` if the block succeeds.

    If the block raises, the temporary folder is removed. If the process is killed, the folder
    remains and the next call for the same `path` removes it. Raises `ConfigError` if `path` exists,
    or if another process writes the same folder.
    """
    check_new_folder(path)
    temporary = path.absolute().parent / f".{path.name}.partial"
    temporary.mkdir(exist_ok=True)
    # The kernel releases the lock when the process ends, also if the process was killed.
    descriptor = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"Another process writes the folder `{path}` now.", "Name another folder."
            ) from error
        try:
            _clear(temporary)
            yield temporary
            check_new_folder(path)
            temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    finally:
        os.close(descriptor)


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
