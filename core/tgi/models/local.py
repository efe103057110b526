"""Finds a model in a local folder or file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from tgi.architectures.checkpoint import ADAPTER_CONFIG_NAME, adapter_error
from tgi.errors import ModelError
from tgi.models.formats import FoundWeights, ReadableFormats
from tgi.models.source import ModelSource

__all__ = ["FolderNames", "find_in_folder", "find_local_model", "find_override"]

_MAX_LISTED = 8  # maximum number of file names in an error message


@final
@dataclass(frozen=True)
class FolderNames:
    """The name of a folder in error messages, and the remedy if it contains no model."""

    folder: str  # for example: The folder `models/a`
    remedy: str


def find_local_model(model_id: str, path: Path, readable: ReadableFormats) -> ModelSource:
    """Find the model in an existing folder or file. Raises `ModelError` if there is no model."""
    if path.is_dir():
        names = FolderNames(f"The folder `{path}`", "Name a folder in Hugging Face format.")
        return find_in_folder(model_id, path, readable, names)
    model_format = readable.recognize(path.name)
    if model_format is None or not model_format.is_single_file:
        raise ModelError(
            f"`{path}` is a file.", "Name the folder that contains config.json and the weights."
        )
    return ModelSource(model_id, path, model_format)


def find_in_folder(
    model_id: str, folder: Path, readable: ReadableFormats, names: FolderNames
) -> ModelSource:
    """Find the model in a folder. The model is the folder itself, or the only file in a single-file
    format. Raises `ModelError` if the folder contains no model or several models.
    """
    found = _find_weights(folder, readable)
    if found is not None and found.model_format.is_single_file:
        return ModelSource(model_id, folder / only_file(found, names.folder), found.model_format)
    if not (folder / "config.json").exists() and not (folder / "config.json").is_symlink():
        if (folder / ADAPTER_CONFIG_NAME).exists():
            raise adapter_error(folder)
        raise ModelError(f"{names.folder} contains no config.json.", names.remedy)
    return (
        ModelSource(model_id, folder)
        if found is None
        else ModelSource(model_id, folder, found.model_format)
    )


def find_override(model_id: str, folder: Path, readable: ReadableFormats) -> ModelSource:
    """Find the model in the folder of `--weights-cache-override`. This model replaces the model
    with the id `model_id`. Raises `ModelError` if the folder does not contain a complete model.
    """
    names = FolderNames(
        f"The folder `{folder}` of `--weights-cache-override`",
        "Copy the whole model there: config, tokenizer and weights.",
    )
    source = find_in_folder(model_id, folder, readable, names)
    if not source.model_format.is_single_file and _find_weights(folder, readable) is None:
        pattern = source.model_format.patterns[0]
        raise ModelError(f"{names.folder} contains no {pattern}.", names.remedy)
    return source


def only_file(found: FoundWeights, where: str) -> str:
    """Return the only file of a single-file format. Raises `ModelError` if `found` contains several
    files.
    """
    if len(found.files) == 1:
        return found.files[0]
    listed = ", ".join(found.files[:_MAX_LISTED])
    more = len(found.files) - _MAX_LISTED
    raise ModelError(
        f"{where} contains {len(found.files)} models in the format `{found.model_format.name}`:"
        f" {listed}{f' and {more} more' if more > 0 else ''}.",
        "Name one of these files.",
    )


def _find_weights(folder: Path, readable: ReadableFormats) -> FoundWeights | None:
    if not folder.is_dir():
        return None
    return readable.find_weights([path.name for path in folder.iterdir() if path.is_file()])
