"""Reads JSON texts of clients within limits."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, NoReturn, TypeAlias

from tgi.grammar.constraint import GrammarError
from tgi.grammar.limits import MAX_GRAMMAR_BYTES, MAX_NESTING

__all__ = ["Json", "check_text", "parse_json", "short_json"]

Json: TypeAlias = Any  # a value of JSON

_MAX_SHOWN = 80  # characters of a value in a message


def check_text(text: str, name: str) -> None:
    """Raises `GrammarError` if a text is too large or is not valid Unicode."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise GrammarError(f"{name} contains an unpaired surrogate") from None
    if size > MAX_GRAMMAR_BYTES:
        raise GrammarError(
            f"{name} has {size} bytes, but the limit is {MAX_GRAMMAR_BYTES}; use a smaller one"
        )


def parse_json(text: str, name: str) -> Json:
    """The value of a JSON text. Objects with repeated keys, `NaN`, `Infinity`, numbers that are too
    large and deep nesting are rejected with `GrammarError`.
    """
    check_text(text, name)

    def read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise GrammarError(f"{name} contains the key {short_json(twice)} twice in one object")
        return found

    def reject_constant(constant: str) -> NoReturn:
        raise GrammarError(f"{name} contains {constant}, which is not JSON")

    try:
        value = json.loads(text, object_pairs_hook=read_object, parse_constant=reject_constant)
    except RecursionError:
        raise _too_deep(name) from None
    except ValueError as error:
        raise GrammarError(f"{name} is not JSON: {error}") from None
    _check_values(value, name)
    return value


def short_json(value: object) -> str:
    """The JSON text of a value, shortened for a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _check_values(root: Json, name: str) -> None:
    waiting = [(root, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_NESTING:
            raise _too_deep(name)
        if isinstance(value, float) and not math.isfinite(value):
            raise GrammarError(f"{name} contains a number that is too large")
        if isinstance(value, str):
            check_text(value, name)
        waiting += [(inner, depth + 1) for inner in _inner(value)]


def _inner(value: Json) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _too_deep(name: str) -> GrammarError:
    return GrammarError(
        f"{name} is nested more deeply than {MAX_NESTING} levels; use `$ref` or fewer levels"
    )
