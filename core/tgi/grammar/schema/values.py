"""Checks the values of the keywords of JSON schemas that contain no schemas.

Each function returns the rewritten value. `place` is the JSON pointer of the schema, for messages.
The functions raise `GrammarError`.
"""

from __future__ import annotations

import re
from typing import Any, Final

from tgi.grammar.constraint import GrammarError
from tgi.grammar.json_text import Json, short_json
from tgi.grammar.limits import MAX_ARRAY_ITEMS, MAX_CHOICES, MAX_LENGTH, MAX_PROPERTIES
from tgi.grammar.schema.keywords import MAX_EXACT_NUMBER, MIN_EXACT_NUMBER, TYPES
from tgi.grammar.schema.pattern import translated_pattern

__all__ = [
    "read_bound",
    "read_const",
    "read_enum",
    "read_length",
    "read_multiple",
    "read_pattern",
    "read_required",
    "read_type",
]

_WITHOUT_ESCAPE: Final = re.compile("[\\x00-\\x07\\x0b\\x0e-\\x1f\\x7f]")
"""Characters that our JSON texts cannot contain, because only the short escapes are allowed."""


def read_type(keyword: str, value: Json, _: dict[str, Any], place: str) -> Json:
    names = value if isinstance(value, list) else [value]
    for name in names:
        if not isinstance(name, str) or name not in TYPES:
            raise GrammarError(f"`type` {short_json(name)} at {place} is not a type of JSON")
    if not names:
        raise GrammarError(f"`type` at {place} must contain a type")
    return value


def read_enum(keyword: str, value: Json, _: dict[str, Any], place: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise GrammarError(f"`enum` at {place} must be a list with at least one value")
    if len(value) > MAX_CHOICES:
        raise GrammarError(
            f"`enum` at {place} has {len(value)} values, but the limit is {MAX_CHOICES}"
        )
    for constant in value:
        read_const(keyword, constant, _, place)
    return value


def read_const(keyword: str, value: Json, _: dict[str, Any], place: str) -> Json:
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, dict):
            waiting += inner.values()
        elif isinstance(inner, list):
            waiting += inner
        elif isinstance(inner, int | float):
            _check_number(keyword, inner, place)
        elif isinstance(inner, str) and _WITHOUT_ESCAPE.search(inner):
            raise GrammarError(
                f"`{keyword}` at {place} contains {short_json(inner)}, but control characters"
                " except \\b, \\f, \\n, \\r and \\t are not supported"
            )
    return value


def read_required(keyword: str, value: Json, _: dict[str, Any], place: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise GrammarError(f"`required` at {place} must be a list of strings")
    if len(value) > MAX_PROPERTIES:
        raise GrammarError(
            f"`required` at {place} has {len(value)} names, but the limit is {MAX_PROPERTIES}"
        )
    return list(dict.fromkeys(value))


def read_pattern(keyword: str, value: Json, _: dict[str, Any], place: str) -> str:
    if not isinstance(value, str):
        raise GrammarError(f"`pattern` at {place} must be a string")
    return translated_pattern(value, is_json=True)


def read_length(keyword: str, value: Json, _: dict[str, Any], place: str) -> int:
    is_whole = isinstance(value, int | float) and value == int(value) and value >= 0
    if isinstance(value, bool) or not is_whole:
        raise GrammarError(
            f"`{keyword}` at {place} must be a non-negative integer, not {short_json(value)}"
        )
    limit = MAX_LENGTH if keyword in {"minLength", "maxLength"} else MAX_ARRAY_ITEMS
    if value > limit:
        raise GrammarError(f"`{keyword}` at {place} is {int(value)}, but the limit is {limit}")
    return int(value)


def read_bound(keyword: str, value: Json, _: dict[str, Any], place: str) -> Json:
    _check_number(keyword, value, place)
    return value


def read_multiple(keyword: str, value: Json, _: dict[str, Any], place: str) -> Json:
    _check_number(keyword, value, place)
    if value <= 0:
        raise GrammarError(f"`multipleOf` at {place} must be above 0, not {short_json(value)}")
    return value


def _check_number(keyword: str, value: Json, place: str) -> None:
    if isinstance(value, bool) and keyword in {"enum", "const"}:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise GrammarError(f"`{keyword}` at {place} must be a number, not {short_json(value)}")
    if value and not MIN_EXACT_NUMBER <= abs(value) <= MAX_EXACT_NUMBER:
        raise GrammarError(
            f"`{keyword}` at {place} contains {short_json(value)}, but only 0 and absolute values"
            f" from {MIN_EXACT_NUMBER} to {MAX_EXACT_NUMBER} are exact"
        )
