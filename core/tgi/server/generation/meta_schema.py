"""Checks a JSON schema against the meta-schema of draft 2020-12.

The messages are those of the Rust crate `jsonschema` 0.28, which TGI 3 used, for the keywords of
the vocabularies core, applicator, unevaluated, validation and meta-data. Patterns of strings, such
as that of `$id`, are not checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import msgspec

__all__ = ["violation"]

_MAX_SHOWN = 200  # characters of a value in a message
_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})

_SCHEMA_MAPS = ("$defs", "definitions", "properties", "patternProperties", "dependentSchemas")
_SCHEMA_LISTS = ("prefixItems", "allOf", "anyOf", "oneOf")
_SCHEMAS = (
    "items",
    "contains",
    "additionalProperties",
    "if",
    "then",
    "else",
    "not",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contentSchema",
)
_STRINGS = (
    *("$id", "$schema", "$ref", "$anchor", "$dynamicRef", "$dynamicAnchor", "$comment"),
    *("title", "description", "pattern", "format", "contentEncoding", "contentMediaType"),
)
_NUMBERS = ("multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum")
_COUNTS = (
    *("maxLength", "minLength", "maxItems", "minItems", "maxContains", "minContains"),
    *("maxProperties", "minProperties"),
)
_BOOLEANS = ("uniqueItems", "deprecated", "readOnly", "writeOnly")
_LISTS = ("enum", "examples")


def violation(schema: object) -> str | None:
    """Return a message about the first violation of the meta-schema, or None if `schema` (decoded
    JSON) is valid.
    """
    rest = [schema]
    while rest:
        inner = rest.pop()
        if isinstance(inner, bool):
            continue
        if not isinstance(inner, dict):
            return f'{_text(inner)} is not of types "boolean", "object"'
        found = next(_violations(inner), None)
        if found is not None:
            return found
        rest += reversed(list(_subschemas(inner)))
    return None


def _subschemas(schema: dict[str, object]) -> Iterator[object]:
    for name in _SCHEMA_MAPS:
        members = schema.get(name)
        if isinstance(members, dict):
            yield from members.values()
    for name in _SCHEMA_LISTS:
        entries = schema.get(name)
        if isinstance(entries, list):
            yield from entries
    for name in _SCHEMAS:
        if name in schema:
            yield schema[name]


def _violations(schema: dict[str, object]) -> Iterator[str]:
    """Yield messages about the keywords of one schema, without those of its subschemas."""
    for names, types, name_of_type in (
        (_SCHEMA_MAPS, dict, "object"),
        (_SCHEMA_LISTS, list, "array"),
        (_STRINGS, str, "string"),
        (_BOOLEANS, bool, "boolean"),
        (_LISTS, list, "array"),
    ):
        for name in names:
            if name in schema and not isinstance(schema[name], types):
                yield _wrong_type(schema[name], name_of_type)
    for name in _SCHEMA_LISTS:
        if schema.get(name) == []:
            yield "[] has less than 1 item"
    if "type" in schema and not _is_type(schema["type"]):
        shown = _text(schema["type"])
        yield f"{shown} is not valid under any of the schemas listed in the 'anyOf' keyword"
    yield from _number_violations(schema)
    if "required" in schema:
        yield from _name_violations(schema["required"])
    dependent = schema.get("dependentRequired", {})
    if not isinstance(dependent, dict):
        yield _wrong_type(dependent, "object")
    else:
        for names_of_property in dependent.values():
            yield from _name_violations(names_of_property)


def _number_violations(schema: dict[str, object]) -> Iterator[str]:
    for name in _NUMBERS:
        if name not in schema:
            continue
        value = schema[name]
        if not _is_number(value):
            yield _wrong_type(value, "number")
        elif name == "multipleOf" and isinstance(value, int | float) and value <= 0:
            yield f"{_text(value)} is less than or equal to the minimum of 0"
    for name in _COUNTS:
        value = schema.get(name, 0)
        if not isinstance(value, int | float) or isinstance(value, bool) or value % 1:
            yield _wrong_type(value, "integer")
        elif value < 0:
            yield f"{_text(value)} is less than the minimum of 0"


def _name_violations(names: object) -> Iterator[str]:
    """Yield messages about a list of unique strings."""
    if not isinstance(names, list):
        yield _wrong_type(names, "array")
        return
    for name in names:
        if not isinstance(name, str):
            yield _wrong_type(name, "string")
            return
    if any(name == following for name, following in pairwise(sorted(names))):
        yield f"{_text(names)} has non-unique elements"


def _is_type(value: object) -> bool:
    if isinstance(value, list):
        names = {name for name in value if isinstance(name, str)}
        return len(value) == len(names) > 0 and names <= _TYPES
    return isinstance(value, str) and value in _TYPES


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _wrong_type(value: object, name: str) -> str:
    return f'{_text(value)} is not of type "{name}"'


def _text(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
