"""Describes the fields of an options class: their flags, environment variables and help texts."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Any, final

__all__ = ["Option", "option", "option_rows"]

_METADATA_KEY = "option"


@final
@dataclass(frozen=True)
class Option:
    """One option. The flag and the environment variable are derived from `name`, as in TGI 3."""

    name: str
    group: str
    help: str
    kind: type  # str, int, float or bool
    default: Any
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    short: str = ""
    is_list: bool = False  # the value is a list of `kind`
    # Text between the items of a list. If it is empty, the flag is repeated for each item.
    separator: str = ""
    takes_value: bool = True
    has_environment: bool = True
    # The reason for which the option has no effect. It is logged at startup if the option is set.
    no_effect: str = ""

    @property
    def flag(self) -> str:
        """The long form of the flag, for example `--model-id`."""
        return "--" + self.name.replace("_", "-")

    @property
    def environment(self) -> str:
        """The environment variable, for example `MODEL_ID`, or an empty string if the option has no
        variable.
        """
        return self.name.upper() if self.has_environment else ""

    @property
    def value_words(self) -> str:
        """The form of a value in the help text, or an empty string if the flag takes no value."""
        if not self.takes_value:
            return ""
        if self.choices:
            return "|".join(self.choices)
        word = {str: "TEXT", int: "INTEGER", float: "NUMBER", bool: "true|false"}[self.kind]
        return f"{word}{self.separator}…" if self.separator else word


def option(
    default: Any,  # noqa: ANN401 - as in dataclasses.field
    group: str,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    short: str = "",
    separator: str = "",
    takes_value: bool | None = None,
    has_environment: bool = True,
    no_effect: str = "",
) -> Any:  # noqa: ANN401 - as in dataclasses.field
    """Return a dataclass field with the description of an option.

    The flag of a `bool` option takes no value, unless `takes_value` is True.
    """
    row = {
        "group": group,
        "help": help,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "short": short,
        "separator": separator,
        "takes_value": takes_value,
        "has_environment": has_environment,
        "no_effect": no_effect,
    }
    return dataclasses.field(default=default, metadata={_METADATA_KEY: row})


def option_rows(options_class: type) -> tuple[Option, ...]:
    """Return the options of an options class, in the order of the fields."""
    hints = typing.get_type_hints(options_class)
    return tuple(_row(field, hints[field.name]) for field in dataclasses.fields(options_class))


def _row(field: dataclasses.Field[Any], hint: Any) -> Option:  # noqa: ANN401 - a type form
    row = dict(field.metadata[_METADATA_KEY])
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    is_list = typing.get_origin(hint) is tuple
    kind = typing.get_args(hint)[0] if is_list else hint
    if row["takes_value"] is None:
        row["takes_value"] = kind is not bool
    return Option(name=field.name, kind=kind, default=field.default, is_list=is_list, **row)
