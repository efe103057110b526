"""Adds the keywords that clients leave out. A schema with `properties` then describes an object
that has no other properties.

In JSON Schema, `{"properties": {…}}` allows any number and any text, and an object may have further
properties. TGI 3 generates only objects with the listed properties for this schema, and its users
leave `type` and `additionalProperties` out. Every value that the result allows is also valid for
the schema of the client.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tgi.grammar.json_text import Json
from tgi.grammar.schema.keywords import ANNOTATIONS

__all__ = ["with_defaults"]

_MAPS: Final = ("$defs", "definitions", "patternProperties", "properties")
_LISTS: Final = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_SCHEMAS: Final = ("additionalItems", "additionalProperties", "items")
_COMBINING: Final = frozenset({"$ref", "allOf", "anyOf", "const", "enum", "if", "not", "oneOf"})
_TYPE_OF: Final = {
    "additionalProperties": "object",
    "maxProperties": "object",
    "minProperties": "object",
    "patternProperties": "object",
    "properties": "object",
    "required": "object",
    "items": "array",
    "maxItems": "array",
    "minItems": "array",
    "prefixItems": "array",
    "format": "string",
    "maxLength": "string",
    "minLength": "string",
    "pattern": "string",
    "exclusiveMaximum": "number",
    "exclusiveMinimum": "number",
    "maximum": "number",
    "minimum": "number",
    "multipleOf": "number",
}
"""The type to which a keyword applies."""


def with_defaults(root: dict[str, Any]) -> dict[str, Any]:
    """The schema with a `type` for every schema whose keywords apply to one type only, and with
    `additionalProperties` false where `properties` are listed.

    A schema that combines several schemas for one value stays as it is, because the parts of a
    combination may list different properties of the same object. A schema with `oneOf` stays as it
    is, because each value must be invalid for all alternatives except one. If an alternative
    allowed fewer values, more values would be invalid for it.
    """
    return root if _has_combination(root) else _completed(root)


def _has_combination(root: Json) -> bool:
    """Whether several schemas may apply to the same value."""
    waiting = [root]
    while waiting:
        schema = waiting.pop()
        if not isinstance(schema, dict):
            continue
        combining = [keyword for keyword in ("$ref", "anyOf") if keyword in schema]
        others = schema.keys() - ANNOTATIONS - {*combining, "$defs", "definitions", "type"}
        if schema.keys() & {"allOf", "oneOf"} or len(combining) > 1 or (combining and others):
            return True
        waiting.extend(_inner(schema))
    return False


def _inner(schema: dict[str, Any]) -> Iterator[Json]:
    for keyword in _MAPS:
        if isinstance(schema.get(keyword), dict):
            yield from schema[keyword].values()
    for keyword in _LISTS:
        if isinstance(schema.get(keyword), list):
            yield from schema[keyword]
    for keyword in _SCHEMAS:
        yield schema.get(keyword)


def _completed(schema: Json) -> Any:  # noqa: ANN401 - a schema that is not checked yet
    if not isinstance(schema, dict):
        return schema
    result = {keyword: _completed_value(keyword, value) for keyword, value in schema.items()}
    types = {_TYPE_OF[keyword] for keyword in schema.keys() & _TYPE_OF.keys()}
    if len(types) == 1 and "type" not in schema and schema.keys().isdisjoint(_COMBINING):
        result["type"] = types.pop()
    properties, required = schema.get("properties"), schema.get("required", [])
    if (
        isinstance(properties, dict)
        and isinstance(required, list)
        and all(isinstance(name, str) and name in properties for name in required)
        and schema.keys().isdisjoint({"additionalProperties", "minProperties", "patternProperties"})
    ):
        result["additionalProperties"] = False
    return result


def _completed_value(keyword: str, value: Json) -> Any:  # noqa: ANN401
    if keyword in _MAPS and isinstance(value, dict):
        return {name: _completed(inner) for name, inner in value.items()}
    if keyword in _LISTS and isinstance(value, list):
        return [_completed(inner) for inner in value]
    return _completed(value) if keyword in _SCHEMAS else value
