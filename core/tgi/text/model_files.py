"""Reads the JSON files that describe the tokenizer of a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tgi.architectures import file_reader

__all__ = ["SPECIAL_TOKEN_FIELDS", "read_json_object", "special_token_fields", "token_content"]

SPECIAL_TOKEN_FIELDS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
"""The fields of tokenizer_config.json that name special tokens."""


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or an empty dict if the file does not exist. Raises a
    `ModelError` with the name of the file if the file cannot be read.
    """
    if not path.exists() and not path.is_symlink():
        return {}
    return file_reader.read_json_object(path)


def special_token_fields(model_path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a tokenizer_config.json, with those of special_tokens_map.json. As in
    `transformers`, the second file takes precedence, but it applies only if the first has no
    `added_tokens_decoder`.
    """
    if isinstance(config.get("added_tokens_decoder"), dict):
        return dict(config)
    return {**config, **read_json_object(model_path / "special_tokens_map.json")}


def token_content(value: object) -> str | None:
    """Return the text of a special token. `value` is a string or an object with `content`. Returns
    None for any other value.
    """
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
