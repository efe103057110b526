"""Parses the command line and the environment by the rules of TGI 3's parser (clap 4).

The command line takes precedence over the environment. An environment variable is used even if its
value is empty. In the environment, the value of a boolean option must be `true` or `false`. On the
command line, a boolean option takes no value.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from tgi.config.option import Option
from tgi.config.options import OPTIONS, ServeOptions
from tgi.errors import ConfigError

__all__ = ["ParsedArguments", "UsageError", "parse_arguments", "similar"]

_BOOLEANS = {"true": True, "false": False}


@final
class UsageError(ConfigError):
    """The command line or an environment variable is invalid. The exit code is 2."""

    def __init__(self, cause: str, remedy: str = "For more information, try '--help'.") -> None:
        super().__init__(cause, remedy)


@final
@dataclass(frozen=True)
class ParsedArguments:
    """The parsed options. `plugin_values` maps the flags of backends, for example `--null-script`,
    to their values. These values are checked after the backend has been selected.
    """

    options: ServeOptions
    plugin_values: Mapping[str, str]


def parse_arguments(
    arguments: Sequence[str], environment: Mapping[str, str], backend_names: Sequence[str] = ()
) -> ParsedArguments:
    """Parse the options of `tgi serve`. Flags that begin with the name of a backend are returned as
    `plugin_values`. Raises `UsageError` if a flag is unknown or a value is invalid.
    """
    texts, plugin_values = _split(arguments, backend_names)
    values: dict[str, Any] = {}
    for row in OPTIONS:
        if row.name in texts:
            values[row.name] = _convert(row, texts[row.name], row.flag)
        elif row.environment and row.environment in environment:
            origin = f"{row.flag}' (from the variable '{row.environment}"
            values[row.name] = _convert(row, [environment[row.environment]], origin)
    return ParsedArguments(ServeOptions(**values), plugin_values)


def _split(
    arguments: Sequence[str], backend_names: Sequence[str]
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Split the words into values by option name and values by backend flag. A word that is neither
    a flag nor the value of a flag is the model.
    """
    by_flag = {row.flag: row for row in OPTIONS} | {row.short: row for row in OPTIONS if row.short}
    texts: dict[str, list[str]] = {}
    plugin_values: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            _add(texts, by_flag["--model-id"], "MODEL", word)
            continue
        flag, value = _flag_and_value(word)
        row = by_flag.get(flag)
        if row is not None:
            if row.takes_value:
                _add(texts, row, flag, _value(flag, value, rest))
            elif value is not None:
                raise UsageError(
                    f"error: unexpected value '{value}' for '{flag}'; this flag takes no value."
                )
            else:
                _add(texts, row, flag, "true")
        elif any(flag.startswith(f"--{name}-") for name in backend_names):
            plugin_values[flag] = _value(flag, value, rest)
        else:
            raise UsageError(
                f"error: unexpected argument '{flag}' found.",
                f"{similar(flag, by_flag)}For more information, try '--help'.",
            )
    return texts, plugin_values


def similar(word: str, known: Iterable[str]) -> str:
    """Return a sentence with the known word that is most similar to `word`, and a space. The result
    is empty if no known word is similar.
    """
    found = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean '{found[0]}'? " if found else ""


def _flag_and_value(word: str) -> tuple[str, str | None]:
    """Return the flag in a word. The second value is the value in the same word (`--port=80`,
    `-p=80`, `-p80`), or None.
    """
    if word.startswith("--"):
        flag, equals, value = word.partition("=")
        return flag, value if equals else None
    value = word[2:].removeprefix("=")
    return word[:2], value if len(word) > 2 else None


def _value(flag: str, value: str | None, rest: list[str]) -> str:
    if value is not None:
        return value
    if not rest or rest[0].startswith("--"):
        raise UsageError(f"error: a value is required for '{flag}' but none was supplied.")
    return rest.pop(0)


def _add(texts: dict[str, list[str]], row: Option, flag: str, text: str) -> None:
    is_repeatable = row.is_list and not row.separator
    if row.name in texts and not is_repeatable:
        raise UsageError(f"error: the argument '{flag}' cannot be used multiple times.")
    texts.setdefault(row.name, []).append(text)


def _convert(row: Option, texts: Sequence[str], origin: str) -> object:
    """Convert the texts of an option to its value. `origin` is the flag or the variable in error
    messages.
    """
    if row.is_list:
        parts = [
            part
            for text in texts
            for part in (text.split(row.separator) if row.separator else [text])
        ]
        return tuple(_convert_one(row, part, origin) for part in parts)
    return _convert_one(row, texts[0], origin)


def _convert_one(row: Option, text: str, origin: str) -> object:
    closing = "')" if "(from" in origin else "'"
    problem = f"error: invalid value '{text}' for '{origin}{closing}"
    if row.kind is bool:
        if text not in _BOOLEANS:
            raise UsageError(f"{problem}; possible values: true, false.")
        return _BOOLEANS[text]
    if row.choices and text not in row.choices:
        raise UsageError(f"{problem}; possible values: {', '.join(row.choices)}.")
    if row.kind is str:
        return text
    return _number(row, text, problem)


def _number(row: Option, text: str, problem: str) -> int | float:
    is_plain = text.isascii() and text == text.strip() and "_" not in text
    try:
        number: int | float = int(text) if row.kind is int else float(text)
    except ValueError:
        is_plain = False
    if not is_plain:
        raise UsageError(
            f"{problem}; it must be {'an integer' if row.kind is int else 'a number'}."
        )
    if row.minimum is not None and number < row.minimum:
        raise UsageError(f"{problem}; it must be >= {row.minimum:.0f}.")
    if row.maximum is not None and number > row.maximum:
        raise UsageError(f"{problem}; it must be <= {row.maximum:.0f}.")
    return number
