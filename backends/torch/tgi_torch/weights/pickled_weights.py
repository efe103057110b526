"""Converts pickled weights in a separate process, which `tgi convert` starts.

Pickled files are read only in this process. Only tensors are unpickled. Files are converted one by
one, so that only one file is in memory. When all files are complete, they are renamed to their
final names, and the index is written last. An interrupted conversion therefore leaves no incomplete
checkpoint in the output folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from tgi.architectures.checkpoint import read_index_file
from tgi.architectures.file_reader import path_in_folder, shown
from tgi.backend import ModelError

__all__ = ["convert", "main"]

_SINGLE_NAME = "pytorch_model.bin"
_INDEX_NAME = "pytorch_model.bin.index.json"
_COPIED = ("*.json", "*.jinja", "*.model", "*.txt")
_METADATA = {"format": "pt"}
ResultT = TypeVar("ResultT")

_OTHER = "Download the checkpoint in safetensors format from a source that you trust."


def main(source: str, output: str) -> int:
    """Convert the weights. On failure, print one line with the reason to the standard error."""

    def explain(error: Exception) -> ModelError:
        text = " ".join(str(error).split())[:300]
        return ModelError(f"{source}: {type(error).__name__}: {text}")

    try:
        _call(lambda: convert(Path(source), Path(output)), explain)
    except ModelError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the result of this process
        return 1
    return 0


def _call(call: Callable[[], ResultT], explain: Callable[[Exception], ModelError]) -> ResultT:
    """Return the result of `call`. A `ModelError` is raised unchanged. Any other error is converted
    to a `ModelError`.
    """
    try:
        return call()
    except ModelError:
        raise
    # A file from an unknown source can cause any error in torch.
    except Exception as error:
        raise explain(error) from error


def convert(source: Path, output: Path) -> None:
    """Write the pickled weights in `source` as safetensors to `output`. Raises `ModelError`."""
    if any(output.glob("*.safetensors")):
        raise ModelError(
            f"{output}: there are .safetensors files already.",
            "Serve them, or name another folder.",
        )
    files = _pickled_files(source)
    output.mkdir(parents=True, exist_ok=True)
    if output.resolve() != source.resolve():
        _copy_others(source, output)
    weight_map: dict[str, str] = {}
    written: dict[Path, Path] = {}
    try:
        for number, path in enumerate(files, start=1):
            name = (
                "model.safetensors"
                if len(files) == 1
                else f"model-{number:05}-of-{len(files):05}.safetensors"
            )
            tensors = _read(path)
            doubled = weight_map.keys() & tensors.keys()
            if doubled:
                raise ModelError(
                    f"{path}: tensor `{min(doubled)}` is also in another file.", _OTHER
                )
            weight_map |= dict.fromkeys(tensors, name)
            partial = output / f".{name}.partial"
            written[partial] = output / name
            save_file(dict(tensors), partial, _METADATA)
        for partial, final in written.items():
            partial.replace(final)
    finally:
        for partial in written:
            partial.unlink(missing_ok=True)
    if len(files) > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (output / "model.safetensors.index.json").write_text(
            json.dumps(index, indent=2), encoding="utf-8"
        )


def _pickled_files(source: Path) -> list[Path]:
    """The paths of the files in the index, or of the single file if there is no index."""
    index = source / _INDEX_NAME
    if not os.path.lexists(index):
        if (source / _SINGLE_NAME).exists():
            return [source / _SINGLE_NAME]
        raise ModelError(
            f"{source}: there is neither {_SINGLE_NAME} nor {_INDEX_NAME}.",
            "Only such checkpoints can be converted.",
        )
    names = sorted(set(read_index_file(index).values()))
    if not names:
        raise ModelError(f"{index}: the index names no file.", "Download the file again.")
    paths = [path_in_folder(source, name, _INDEX_NAME) for name in names]
    for name, path in zip(names, paths, strict=True):
        if Path(name).name != name or not path.is_file():
            raise ModelError(
                f"{index}: it names `{shown(name)}`, which is not a file in the same folder.",
                "Download the whole checkpoint.",
            )
    return paths


def _read(path: Path) -> Mapping[str, Tensor]:
    """Read the tensors of one file. No two tensors share memory."""
    is_zip = zipfile.is_zipfile(path)  # the format of torch since 1.6; older files cannot be mapped

    def explain(error: Exception) -> ModelError:
        if isinstance(error, RuntimeError | EOFError | OSError | ValueError):
            text = " ".join(str(error).split())[:200]
            return ModelError(f"{path}: the file cannot be read: {text}.", "Download it again.")
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"`{found[1]}`" if found else "objects other than tensors"
        return ModelError(
            f"{path}: rejected, because it contains {what}, and loading that could run code.",
            _OTHER,
        )

    content: Any = _call(
        lambda: torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip), explain
    )
    if not isinstance(content, dict) or not content:
        raise ModelError(
            f"{path}: it contains a {type(content).__name__}, not tensors by name.", _OTHER
        )
    for name, value in content.items():
        if (
            not isinstance(name, str)
            or not isinstance(value, Tensor)
            or value.layout != torch.strided
            or value.is_quantized
        ):
            raise ModelError(f"{path}: the entry {name!r} is not a plain tensor.", _OTHER)
    return _unshared(content)


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make all tensors contiguous and independent.

    A tensor that shares memory with an earlier tensor is copied, so that no name is lost.
    """
    taken: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        is_alone = memory not in taken and tensor.is_contiguous()
        taken.add(memory)
        result[name] = tensor if is_alone else tensor.clone(memory_format=torch.contiguous_format)
    return result


def _copy_others(source: Path, output: Path) -> None:
    for pattern in _COPIED:
        for path in source.glob(pattern):
            if path.name != _INDEX_NAME:
                shutil.copyfile(path, output / path.name)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
