"""Reads the settings of a quantized checkpoint and checks their types."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from tgi.architectures.file_reader import shown
from tgi.errors import ModelError

__all__ = ["REQUIRED", "Settings"]

REQUIRED: Final = object()
"""The default of a setting that must be present."""


@final
@dataclass(frozen=True)
class Settings:
    """The JSON object that describes the quantization of a checkpoint, or an object inside it.

    `place` is the file and the path of the object, for error messages. Each method looks for the
    given keys in order and reads the first one that is present and not null. Every method raises
    `ModelError` with the key and the value if the value has the wrong type or is not allowed, and
    if a required key is missing.
    """

    values: Mapping[str, Any]
    place: str

    def has(self, *keys: str) -> bool:
        """Whether one of the keys is present and not null."""
        return self._find(keys)[1] is not None

    def integer(self, *keys: str, default: Any = REQUIRED, allowed: Collection[int] = ()) -> int:  # noqa: ANN401 - an integer or REQUIRED
        """Return an integer. An empty `allowed` allows every integer."""
        key, value = self._find(keys, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(key, value, "an integer")
        if allowed and value not in allowed:
            raise self.error(key, value, "one of " + ", ".join(map(str, allowed)))
        return value

    def flag(self, *keys: str, default: Any = REQUIRED) -> bool:  # noqa: ANN401 - a bool or REQUIRED
        """Return true or false."""
        key, value = self._find(keys, default)
        if not isinstance(value, bool):
            raise self.error(key, value, "true or false")
        return value

    def text(self, *keys: str, default: Any = REQUIRED, allowed: Collection[str] = ()) -> str:  # noqa: ANN401 - a text or REQUIRED
        """Return a text in lower case. An empty `allowed` allows every text."""
        key, value = self._find(keys, default)
        if not isinstance(value, str):
            raise self.error(key, value, "a text")
        if allowed and value.lower() not in allowed:
            raise self.error(key, value, "one of " + ", ".join(allowed))
        return value.lower()

    def texts(self, *keys: str) -> tuple[str, ...]:
        """Return a list of texts. The result is empty if there is no such key."""
        key, value = self._find(keys, ())
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        if not is_list or not all(isinstance(item, str) for item in value):
            raise self.error(key, value, "a list of texts")
        return tuple(value)

    def integers(self, *keys: str) -> tuple[int, ...]:
        """Return a list of integers that are at least 1. The result is empty if there is no such
        key.
        """
        key, value = self._find(keys, ())
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        if not is_list or not all(type(item) is int and item > 0 for item in value):
            raise self.error(key, value, "a list of integers >= 1")
        return tuple(value)

    def section(self, *keys: str) -> Settings | None:
        """Return the object with this key, or None if there is none."""
        key, value = self._find(keys, None)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.error(key, value, "an object")
        return Settings(value, f"{self.place}.{key}")

    def sections(self, *keys: str) -> Mapping[str, Settings]:
        """Return the objects inside the object with this key. The result is empty if there is
        none.
        """
        outer = self.section(*keys)
        if outer is None:
            return {}
        return {key: section for key in outer.values if (section := outer.section(key)) is not None}

    def error(self, key: str, value: object, expected: str) -> ModelError:
        """Create the error for a wrong value of `key`."""
        return ModelError(
            f"{self.place}: `{key}` must be {expected}. Given: {shown(repr(value))}.",
            "Correct the value, or choose another checkpoint.",
        )

    def _find(self, keys: Sequence[str], default: Any = None) -> tuple[str, Any]:  # noqa: ANN401 - any JSON value
        """Return the first key with a value, and the value."""
        for key in keys:
            if self.values.get(key) is not None:
                return key, self.values[key]
        if default is REQUIRED:
            raise ModelError(
                f"{self.place}: `{keys[0]}` is missing.",
                "Add the value, or choose another checkpoint.",
            )
        return keys[0], default
