"""Read the JSON files that describe the tokenizer of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tgi.architectures import file_reader

__all__ = ["read_json_object", "token_content"]


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Empty if the file does not exist. Raises `ModelError` with the
    name of the file.
    """
    if not path.exists() and not path.is_symlink():
        return {}
    return file_reader.read_json_object(path)


def token_content(value: object) -> str | None:
    """The text of a special token. The file contains a string or an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
