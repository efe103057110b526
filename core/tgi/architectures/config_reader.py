"""Reads a Hugging Face `config.json`, with typed access and error messages for the families."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast, final

from tgi.architectures.file_reader import read_json_object
from tgi.architectures.spec import Activation
from tgi.errors import ModelError

__all__ = ["ConfigReader", "read_config"]

_MAX_INTEGER = 2**31 - 1
_MAX_LAYERS = 10_000
_POSITIVE = frozenset({"rope_theta", "rope_local_base_freq", "rotary_emb_base", "factor"})
_SMALL = ("eps", "epsilon")  # endings of fields that must not be negative

ValueT = TypeVar("ValueT")

_REMEDY = "Correct the model's config.json."

_ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "gelu_quick",
    "relu": "relu",
    "relu2": "relu_squared",
    "silu": "silu",
    "swish": "silu",
}
"""Activation names of `transformers.activations`."""


def read_config(model_path: Path) -> dict[str, Any]:
    """Read the object in `model_path`/config.json.

    Raises `ModelError` if the file is missing, unreadable, or has no `model_type`.
    """
    path = model_path / "config.json"
    if not path.exists() and not path.is_symlink():
        raise ModelError(
            f"There is no file {path}.", "Give a folder or a repository with a Hugging Face model."
        )
    config = read_json_object(path)
    if not isinstance(config.get("model_type"), str):
        raise ModelError(f"{path} has no `model_type`, so the architecture is unknown.", _REMEDY)
    return config


@final
class ConfigReader:
    """Typed access to a config.

    A field that is absent or null gets the default value. If there is no default value, an error is
    raised. If several names are given, they are aliases, and the first name that is present is
    used. Every method raises `ModelError` with the field's name and value.
    """

    def __init__(self, config: Mapping[str, Any], where: str = "config.json") -> None:
        self._config = config
        self._where = where

    def integer(self, *names: str, default: int | None = None, minimum: int = 1) -> int:
        """An integer that is at least `minimum`. No model has more than 10,000 layers, and no
        size exceeds 32 bits.
        """
        name, value = self._value(names, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise self.error(name, f"must be a whole number >= {minimum}")
        is_count = "layer" in name and "size" not in name
        maximum = _MAX_LAYERS if is_count else _MAX_INTEGER
        if value > maximum:
            raise self.error(name, f"must be a whole number <= {maximum}")
        return value

    def number(self, *names: str, default: float | None = None) -> float:
        """A finite number."""
        name, value = self._value(names, default)
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not abs(value) < float("inf")
        ):
            raise self.error(name, "must be a number")
        if name in _POSITIVE and value <= 0:
            raise self.error(name, "must be greater than 0")
        if name.endswith(_SMALL) and value < 0:
            raise self.error(name, "must not be negative")
        return float(value)

    def optional_integer(self, name: str, default: int | None, minimum: int = 1) -> int | None:
        """An integer. Null means None, and an absent field gets the default."""
        if self.is_null(name) or (default is None and not self.has(name)):
            return None
        return self.integer(name, default=default, minimum=minimum)

    def optional_number(self, name: str, default: float | None) -> float | None:
        """A finite number. Null means None, and an absent field gets the default."""
        if self.is_null(name) or (default is None and not self.has(name)):
            return None
        return self.number(name, default=default)

    def boolean(self, *names: str, default: bool | None = None) -> bool:
        """A boolean."""
        name, value = self._value(names, default)
        if not isinstance(value, bool):
            raise self.error(name, "must be true or false")
        return value

    def choice(
        self, *names: str, table: Mapping[str, ValueT], default: str | None = None
    ) -> ValueT:
        """The entry of `table` for the field's string."""
        name, value = self._value(names, default)
        if not isinstance(value, str) or value not in table:
            raise self.error(name, f"must be one of {', '.join(table)}")
        return table[value]

    def text(self, name: str) -> str:
        """A string."""
        _, value = self._value((name,), None)
        if not isinstance(value, str):
            raise self.error(name, "must be a string")
        return value

    def numbers(self, name: str, length: int) -> tuple[float, ...]:
        """A list of `length` numbers."""
        _, value = self._value((name,), None)
        if (
            not isinstance(value, list)
            or len(value) != length
            or not all(isinstance(item, int | float) for item in value)
        ):
            raise self.error(name, f"must be a list of {length} numbers")
        return tuple(float(item) for item in value)

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of integers. The list is empty if the field is absent."""
        value = self._config[name] if self.has(name) else []
        if not isinstance(value, list) or not all(
            isinstance(item, int) and not isinstance(item, bool) for item in value
        ):
            raise self.error(name, "must be a list of whole numbers")
        return tuple(value)

    def strings(self, name: str, allowed: tuple[str, ...], length: int) -> tuple[str, ...] | None:
        """A list of `length` strings from `allowed`, or None if the field is absent."""
        if not self.has(name):
            return None
        value = self._config[name]
        if (
            not isinstance(value, list)
            or len(value) != length
            or not all(item in allowed for item in value)
        ):
            raise self.error(
                name, f"must be a list of {length} strings, each one of {', '.join(allowed)}"
            )
        return tuple(value)

    def activation(self, *names: str, default: str) -> Activation:
        """An activation, given by its name in `transformers`."""
        return self.choice(*names, table=_ACTIVATIONS, default=default)

    def has(self, name: str) -> bool:
        """Whether the field is present and not null."""
        return self._config.get(name) is not None

    def is_null(self, name: str) -> bool:
        """Whether the field is present and null. An absent field is not null, because it gets its
        default value.
        """
        return name in self._config and self._config[name] is None

    def is_string(self, name: str) -> bool:
        """Whether the field is present and a string."""
        return isinstance(self._config.get(name), str)

    def section(self, name: str) -> ConfigReader:
        """A reader for the object in a field."""
        _, value = self._value((name,), None)
        if not isinstance(value, dict):
            raise self.error(name, "must be an object")
        return ConfigReader(cast(dict[str, Any], value), f"`{name}` of {self._where}")

    @property
    def nested(self) -> tuple[str, ...]:
        """Names of the fields that contain objects."""
        return tuple(name for name, value in self._config.items() if isinstance(value, dict))

    def divided(self, dividend: str, value: int, divisor: str, by: int) -> int:
        """The quotient value / by, which must be an integer. `dividend` and `divisor` are the names
        of the numbers in the error message.
        """
        if value % by != 0:
            raise ModelError(
                f"`{dividend}` ({value}) in {self._where} must be divisible by `{divisor}` ({by}).",
                _REMEDY,
            )
        return value // by

    def error(self, name: str, rule: str) -> ModelError:
        """Create the error for a field that violates a rule."""
        value = json.dumps(self._config.get(name), default=repr)
        shown = value if len(value) <= 200 else value[:200] + "…"
        return ModelError(f"`{name}` in {self._where} {rule}. Given: {shown}.", _REMEDY)

    def _value(self, names: tuple[str, ...], default: object) -> tuple[str, object]:
        for name in names:
            if self.has(name):
                return name, self._config[name]
        if default is None:
            raise ModelError(f"`{names[0]}` is missing in {self._where}.", _REMEDY)
        return names[0], default
