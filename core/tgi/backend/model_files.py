"""The model files that a backend reads, and the description of a model by a backend."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from tgi.architectures import GenericSpec, ModelSpec
from tgi.backend.records import Record

__all__ = ["GGUF", "SAFETENSORS", "ModelDescription", "ModelFilesWanted", "ModelFormat"]


class ModelFormat(Record, frozen=True):
    """A file format of model weights.

    `patterns` match the names of the files that contain the weights, for example `*.safetensors`.
    If `is_single_file` is set, one file is a complete model, and the model path may be the path of
    this file. Otherwise the model path is a folder in Hugging Face format.
    """

    name: str
    patterns: tuple[str, ...]
    is_single_file: bool = False

    def matches(self, file_name: str) -> bool:
        """Whether a file with this name or path contains weights in this format."""
        name = PurePosixPath(file_name).name
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)


SAFETENSORS = ModelFormat("safetensors", ("*.safetensors",))
"""A folder with `config.json` and one or more safetensors files."""

GGUF = ModelFormat("gguf", ("*.gguf",), is_single_file=True)
"""One GGUF file, which contains the weights, the sizes of the model and its tokenizer."""


class ModelFilesWanted(Record, frozen=True):
    """The files of a model that a backend needs.

    `formats` are the weight formats that the backend reads, in order of preference. `patterns`
    match the other files to download from the hub: config, tokenizer and chat template. Neither
    field may match pickled weights or code.
    """

    formats: tuple[ModelFormat, ...] = (SAFETENSORS,)
    patterns: tuple[str, ...] = ("*.json", "*.jinja", "*.model", "*.txt")

    def reads(self, format_name: str) -> bool:
        """Whether the format with this name is among `formats`."""
        return any(model_format.name == format_name for model_format in self.formats)


class ModelDescription(Record, frozen=True):
    """The description of a model that a backend has read from the model file.

    `tokenizer_path` is a folder with `tokenizer.json`, or with `vocab.json` and `merges.txt`. The
    folder may also contain the optional files of a Hugging Face folder (`tokenizer_config.json`,
    `generation_config.json`, `chat_template.jinja`). If `tokenizer_path` is empty, these files are
    in the folder of the model file.
    """

    spec: ModelSpec | GenericSpec
    tokenizer_path: str = ""
