"""Writes the metadata of a GGUF file as the files of a Hugging Face folder without weights:
config.json, generation_config.json, tokenizer.json and tokenizer_config.json.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tgi.architectures.file_reader import shown
from tgi.checkpoints.gguf.config import config_of
from tgi.checkpoints.gguf.container import GgufHeader, read_gguf
from tgi.checkpoints.gguf.tokenizer import tokenizer_of
from tgi.checkpoints.gguf.vocabulary import Vocabulary
from tgi.errors import ModelError

__all__ = ["gguf_model_folder"]

_FORMAT = 1  # increase this number if the files for the same metadata change
_TEMPLATE, _TEMPLATES = "tokenizer.chat_template", "tokenizer.chat_templates"


def gguf_model_folder(path: Path, cache_folder: str) -> Path:
    """Return a folder with the files that describe the model. The folder is in `cache_folder`, and
    its name is a digest of the file's metadata, so the files are written once for each model.

    If no tokenizer can be built from the metadata, the folder contains none. Raises `ModelError` if
    the file is damaged, if its architecture is unknown, or if the cache cannot be written.
    """
    header = read_gguf(path)
    folder = Path(cache_folder) / "gguf" / f"{header.digest}-{_FORMAT}"
    if not folder.is_dir():
        files = _files(header)
        try:
            _write(folder, files)
        except OSError as error:
            raise ModelError(
                f"The description of `{shown(path)}` cannot be written to `{shown(folder)}`:"
                f" {error.strerror or error}.",
                "Set XDG_CACHE_HOME to a folder that this process can write to.",
            ) from error
    return folder


def _files(header: GgufHeader) -> dict[str, dict[str, Any]]:
    config = config_of(header)
    try:
        tokenizer, vocabulary = tokenizer_of(header)
    except ModelError:
        return {"config.json": config}  # a tokenizer may be in the folder of the file
    generation = {"eos_token_id": vocabulary.end_ids}
    return {
        "config.json": config,
        "generation_config.json": generation,
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": _tokenizer_config(vocabulary),
    }


def _tokenizer_config(vocabulary: Vocabulary) -> dict[str, Any]:
    metadata = vocabulary.metadata
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **vocabulary.special_fields,
    }
    if _TEMPLATE in metadata:
        config["chat_template"] = metadata.text(_TEMPLATE)
    if _TEMPLATES in metadata:
        named = {name: f"{_TEMPLATE}.{name}" for name in metadata.strings(_TEMPLATES)}
        default = config.get("chat_template")
        sources = {"default": default} if isinstance(default, str) else {}
        sources |= {name: metadata.text(key) for name, key in named.items() if key in metadata}
        config["chat_template"] = [
            {"name": name, "template": template} for name, template in sources.items()
        ]
    return config


def _write(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    """Write the files to a new folder and rename it, so that the folder is always complete. Another
    process may create the folder at the same time. Its files are the same.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    try:
        for name, content in files.items():
            text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
            (temporary / name).write_text(text, encoding="utf-8")
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
