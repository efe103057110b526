"""Adds the keywords that clients leave out. A schema with `properties` then describes an object
that has no other properties.

In JSON Schema, `{"properties": {…}}` allows any number and any text, and an object may have further
properties. TGI 3 generates only objects with the listed properties for this schema, and its users
leave `type` and `additionalProperties` out. Every value that the result allows is also valid for
the schema of the client.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from tgi.grammar.json_text import Json
from tgi.grammar.schema.keywords import ANNOTATIONS

__all__ = ["with_defaults"]

_MAPS: Final = ("$defs", "definitions", "patternProperties", "properties")
_LISTS: Final = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_SCHEMAS: Final = ("additionalItems", "additionalProperties", "items")
_TYPE_KEYWORDS: Final = frozenset({"$ref", "const", "enum", "type"})
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

    If several schemas may apply to the same value, only the type `object` is added: the parts of a
    combination may list different properties of the same object. A schema with `oneOf` stays as it
    is, because each value must be invalid for all alternatives except one. If one alternative
    allowed fewer values, a value that was valid for two alternatives could become valid for only
    one, and `oneOf` would then allow this value.
    """
    schemas = list(_all_schemas(root))
    if any("oneOf" in schema for schema in schemas):
        return root
    completed: dict[str, Any] = _completed(root, is_combined=any(map(_is_combined, schemas)))
    return completed


def _all_schemas(root: Json) -> Iterator[dict[str, Any]]:
    waiting = [root]
    while waiting:
        schema = waiting.pop()
        if isinstance(schema, dict):
            yield schema
            waiting.extend(_inner(schema))


def _is_combined(schema: dict[str, Any]) -> bool:
    """Whether the schema applies several schemas to the same value."""
    combining = [keyword for keyword in ("$ref", "anyOf") if keyword in schema]
    others = schema.keys() - ANNOTATIONS - {*combining, "$defs", "definitions", "type"}
    return "allOf" in schema or len(combining) > 1 or bool(combining and others)


def _inner(schema: dict[str, Any]) -> Iterator[Json]:
    for keyword in _MAPS:
        if isinstance(schema.get(keyword), dict):
            yield from schema[keyword].values()
    for keyword in _LISTS:
        if isinstance(schema.get(keyword), list):
            yield from schema[keyword]
    for keyword in _SCHEMAS:
        yield schema.get(keyword)


def _completed(schema: Json, *, is_combined: bool) -> Any:  # noqa: ANN401 - not checked yet
    if not isinstance(schema, dict):
        return schema
    result = {
        keyword: _completed_value(keyword, value, is_combined=is_combined)
        for keyword, value in schema.items()
    }
    if is_combined:
        if "properties" in schema and schema.keys().isdisjoint(_TYPE_KEYWORDS):
            result["type"] = "object"
        return result
    types = {_TYPE_OF[keyword] for keyword in schema.keys() & _TYPE_OF.keys()}
    if len(types) == 1 and schema.keys().isdisjoint(_TYPE_KEYWORDS | {"anyOf", "if", "not"}):
        result["type"] = types.pop()
    if _lists_all_properties(schema):
        result["additionalProperties"] = False
    return result


def _lists_all_properties(schema: dict[str, Any]) -> bool:
    """Whether the schema lists properties, and nothing in it refers to other properties."""
    properties, required = schema.get("properties"), schema.get("required", [])
    return (
        isinstance(properties, dict)
        and isinstance(required, list)
        and all(isinstance(name, str) and name in properties for name in required)
        and schema.keys().isdisjoint({"additionalProperties", "minProperties", "patternProperties"})
    )


def _completed_value(keyword: str, value: Json, *, is_combined: bool) -> Any:  # noqa: ANN401
    complete = partial(_completed, is_combined=is_combined)
    if keyword in _MAPS and isinstance(value, dict):
        return {name: complete(inner) for name, inner in value.items()}
    if keyword in _LISTS and isinstance(value, list):
        return [complete(inner) for inner in value]
    return complete(value) if keyword in _SCHEMAS else value
