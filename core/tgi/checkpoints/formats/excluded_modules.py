"""Reads the names of modules that the authors of a checkpoint did not quantize."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tgi.errors import ModelError

__all__ = ["excluded_modules"]


def excluded_modules(settings: Mapping[str, Any], keys: Iterable[str]) -> tuple[str, ...]:
    """Return the entries of all lists of strings under `keys`. Raises `ModelError` if a value is
    not a list of strings. An absent or null value is an empty list.
    """
    names: list[str] = []
    for key in keys:
        value = settings.get(key)
        if value is None:
            continue
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise ModelError(
                f"`{key}` in `quantization_config` of config.json must be a list of module names."
                f" Given: {str(value)[:200]}.",
                "Correct config.json, or download it again.",
            )
        names += value
    return tuple(names)
