"""Read the JSON files that describe the tokenizer of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from tgi.errors import ModelError

__all__ = ["read_json_object", "token_content"]


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Empty if the file does not exist. Raises `ModelError` with the
    name of the file.
    """
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{path}: the file cannot be read as a JSON object: {error}.",
            "Download the file again.",
        ) from error


def token_content(value: object) -> str | None:
    """The text of a special token. The file contains a string or an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
