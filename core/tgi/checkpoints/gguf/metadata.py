"""Typed access to the metadata of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import numpy as np

from tgi.checkpoints.gguf.byte_reader import Value
from tgi.errors import ModelError

__all__ = ["Metadata"]

_MAX_INTEGER = 2**31 - 1
_MAX_SHOWN = 80  # characters of a value in an error message
_REMEDY = "Download another file of this model, or convert the original model again."


@final
class Metadata:
    """The metadata by key. Every method raises `ModelError` with the file, the key and the value,
    if the key is absent and there is no default, or if the value has another type.
    """

    def __init__(self, values: Mapping[str, Value], where: str) -> None:
        self._values = values
        self._where = where

    def __contains__(self, key: str) -> bool:
        """Whether the key is present."""
        return key in self._values

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.error(key, "must be a string")
        return value

    def integer(self, key: str, default: int | None = None, minimum: int = 1) -> int:
        """Return an integer that is at least `minimum` and fits into 31 bits.

        Some keys have an array with one integer per layer. All of them must be equal.
        """
        value = self._value(key, default)
        if isinstance(value, np.ndarray) and len(set(value.tolist())) == 1:
            value = value.tolist()[0]
        if isinstance(value, np.ndarray):
            raise self.error(key, "must be one whole number, the same for all layers")
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise self.error(key, f"must be a whole number >= {minimum}")
        if value > _MAX_INTEGER:
            raise self.error(key, f"must be a whole number <= {_MAX_INTEGER}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a finite number."""
        value = self._value(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.error(key, "must be a number")
        if not abs(value) < float("inf"):
            raise self.error(key, "must be a finite number")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        """Return a boolean."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false")
        return value

    def strings(self, key: str) -> list[str]:
        """Return an array of strings."""
        value = self._value(key, None)
        if not isinstance(value, list):
            raise self.error(key, "must be an array of strings")
        return value

    def numbers(self, key: str, length: int) -> list[float]:
        """Return an array of `length` numbers."""
        value = self._value(key, None)
        if not isinstance(value, np.ndarray) or len(value) != length:
            raise self.error(key, f"must be an array of {length} numbers")
        return [float(item) for item in value.tolist()]

    def error(self, key: str, rule: str) -> ModelError:
        """Create the error for a value that violates a rule."""
        value = self._values.get(key)
        text = f"an array of {len(value)} values" if isinstance(value, list) else repr(value)
        if isinstance(value, np.ndarray):
            text = f"the array {value[:8].tolist()} with {len(value)} values"
        shown = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
        return ModelError(f"{self._where}: `{key}` {rule}. Given: {shown}.", _REMEDY)

    def _value(self, key: str, default: Value | None) -> Value:
        value = self._values.get(key, default)
        if value is None:
            raise ModelError(f"{self._where}: the metadata has no `{key}`.", _REMEDY)
        return value
