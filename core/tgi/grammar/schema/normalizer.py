"""Checks the JSON schema of a client, and rewrites it so that llguidance enforces it exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, final

from tgi.grammar.constraint import GrammarError
from tgi.grammar.json_text import Json, parse_json, short_json
from tgi.grammar.limits import (
    MAX_KEYWORDS,
    MAX_OPTIONAL_PROPERTIES,
    MAX_PATTERN_PROPERTIES,
    MAX_PROPERTIES,
)
from tgi.grammar.schema.defaults import with_defaults
from tgi.grammar.schema.intersections import check_intersections
from tgi.grammar.schema.keywords import ANNOTATIONS, FORMAT_PATTERNS, FORMATS, REJECTED
from tgi.grammar.schema.pattern import translated_pattern
from tgi.grammar.schema.references import check_references, resolve
from tgi.grammar.schema.values import (
    read_bound,
    read_const,
    read_enum,
    read_length,
    read_multiple,
    read_pattern,
    read_required,
    read_type,
)

__all__ = ["normalized_schema"]

_NAME: Final = "the JSON schema"
_OPTIONS: Final = {
    "whitespace_pattern": "[ ]",  # at most one space, so that a model cannot repeat newlines
    # Without `\\u`, a text has only one spelling. With `\\u`, a property name could be repeated in
    # a second spelling, to which the schema of the property would not apply.
    "json_allowed_escapes": 'nrbtf\\"',
}


def normalized_schema(text: str) -> str:
    """The JSON text of a schema for the directive `%json` of llguidance.

    A keyword that cannot be expressed exactly is rejected, and the error names the keyword. The
    option `x-guidance` of a client can only contain `coerce_one_of`. Raises `GrammarError`.
    """
    schema = parse_json(text, _NAME)
    if isinstance(schema, bool):
        if not schema:
            raise GrammarError("the JSON schema `false` allows no value")
        schema = {}
    if not isinstance(schema, dict):
        raise GrammarError(f"{_NAME} must be an object or a boolean, not {short_json(schema)}")
    options = _client_options(schema.pop("x-guidance", {}))
    schema.pop("$id", None)
    schema = with_defaults(schema)
    result = _Normalizer(schema).schema(schema, "#")
    try:
        check_references(result)
        check_intersections(result)
    except RecursionError:
        raise GrammarError("the references of the JSON schema are nested too deeply") from None
    return json.dumps({"x-guidance": {**_OPTIONS, **options}, **result}, ensure_ascii=False)


def _client_options(options: Json) -> dict[str, bool]:
    if not isinstance(options, dict):
        raise GrammarError("`x-guidance` must be an object")
    for name, value in options.items():
        if name != "coerce_one_of":
            raise GrammarError(
                f"`x-guidance` contains {short_json(name)}, but only `coerce_one_of` is supported"
            )
        if not isinstance(value, bool):
            raise GrammarError("`coerce_one_of` in `x-guidance` must be a boolean")
    return options


@final
class _Normalizer:
    """Rewrites one schema. The order of the keywords stays the same, because llguidance generates
    the properties of an object in this order.
    """

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._num_keywords = 0
        self._readers: dict[str, Callable[[str, Json, dict[str, Any], str], Any]] = {
            "$defs": self._map,
            "definitions": self._map,
            "properties": self._map,
            "patternProperties": self._pattern_map,
            "additionalProperties": self._schema,
            "allOf": self._list,
            "anyOf": self._list,
            "oneOf": self._one_of,
            "prefixItems": self._list,
            "$ref": self._reference,
            "type": read_type,
            "enum": read_enum,
            "const": read_const,
            "required": read_required,
            "pattern": read_pattern,
            "minLength": read_length,
            "maxLength": read_length,
            "minItems": read_length,
            "maxItems": read_length,
            "minProperties": read_length,
            "maxProperties": read_length,
            "minimum": read_bound,
            "maximum": read_bound,
            "exclusiveMinimum": read_bound,
            "exclusiveMaximum": read_bound,
            "multipleOf": read_multiple,
        }

    def schema(self, schema: Json, place: str) -> Json:
        """The rewritten schema. `place` is its JSON pointer, for messages."""
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise GrammarError(
                f"a schema must be an object or a boolean, not {short_json(schema)} at {place}"
            )
        self._num_keywords += len(schema)
        if self._num_keywords > MAX_KEYWORDS:
            raise GrammarError(f"{_NAME} has more than {MAX_KEYWORDS} keywords; use a smaller one")
        result: dict[str, Any] = {}
        for keyword, value in schema.items():
            if keyword in self._readers:
                result[keyword] = self._readers[keyword](keyword, value, schema, place)
            elif keyword in {"items", "additionalItems"}:
                self._items(keyword, value, schema, place, result)
            elif keyword in REJECTED:
                _reject(keyword, value, place)
            elif keyword == "$id":
                raise GrammarError(f"`$id` at {place} is only supported at the root of the schema")
        _check_optional(result, place)
        _drop_minimum(result, place)
        _add_format(schema, result, place)
        return result

    def _schema(self, keyword: str, value: Json, _: dict[str, Any], place: str) -> Json:
        return self.schema(value, f"{place}/{keyword}")

    def _map(self, keyword: str, value: Json, _: dict[str, Any], place: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise GrammarError(f"`{keyword}` at {place} must be an object")
        if len(value) > MAX_PROPERTIES:
            raise GrammarError(
                f"`{keyword}` at {place} has {len(value)} entries, but the limit is"
                f" {MAX_PROPERTIES}"
            )
        return {
            name: self.schema(inner, f"{place}/{keyword}/{short_json(name)[1:-1]}")
            for name, inner in value.items()
        }

    def _pattern_map(
        self, keyword: str, value: Json, schema: dict[str, Any], place: str
    ) -> dict[str, Any]:
        found = self._map(keyword, value, schema, place)
        if len(found) > MAX_PATTERN_PROPERTIES:
            raise GrammarError(
                f"`patternProperties` at {place} has {len(found)} expressions, but the limit is"
                f" {MAX_PATTERN_PROPERTIES}"
            )
        return {
            translated_pattern(pattern, is_json=True): inner for pattern, inner in found.items()
        }

    def _list(self, keyword: str, value: Json, _: dict[str, Any], place: str) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise GrammarError(f"`{keyword}` at {place} must be a list of schemas")
        return [self.schema(inner, f"{place}/{keyword}/{n}") for n, inner in enumerate(value)]

    def _one_of(self, keyword: str, value: Json, schema: dict[str, Any], place: str) -> list[Any]:
        """Replaces alternatives that are references by their schemas, because llguidance compares
        the alternatives without following references.
        """
        alternatives = value if isinstance(value, list) else [value]
        resolved = [self._followed(alternative) for alternative in alternatives]
        return self._list(keyword, resolved, schema, place)

    def _followed(self, schema: Json) -> Json:
        seen: list[Any] = []
        while isinstance(schema, dict) and schema.keys() - ANNOTATIONS == {"$ref"}:
            if schema in seen:
                raise GrammarError(f"`$ref` {short_json(schema['$ref'])} refers to itself")
            seen.append(schema)
            schema = resolve(self._root, schema["$ref"])
        return schema

    def _reference(self, keyword: str, value: Json, _: dict[str, Any], place: str) -> str:
        resolve(self._root, value)
        return str(value)

    def _items(
        self, keyword: str, value: Json, schema: dict[str, Any], place: str, result: dict[str, Any]
    ) -> None:
        """Before draft 2020-12, `items` can be a list, and `additionalItems` is the schema of the
        items after the list.
        """
        is_list = isinstance(schema.get("items"), list)
        if keyword == "items" and is_list:
            if value:
                result["prefixItems"] = self._list(keyword, value, schema, place)
        elif keyword == "items" or is_list:
            result["items"] = self.schema(value, f"{place}/{keyword}")


def _reject(keyword: str, value: Json, place: str) -> None:
    """Rejects a keyword, unless its value has no effect."""
    has_effect = value is not (keyword != "uniqueItems") and value != {}
    if has_effect or keyword in {"not", "if", "then", "else", "contains"}:
        raise GrammarError(f"the keyword `{keyword}` at {place} is not supported")


def _check_optional(result: dict[str, Any], place: str) -> None:
    optional = result.get("properties", {}).keys() - set(result.get("required", ()))
    if len(optional) > MAX_OPTIONAL_PROPERTIES:
        raise GrammarError(
            f"`properties` at {place} has {len(optional)} properties that are not required, but the"
            f" limit is {MAX_OPTIONAL_PROPERTIES}; name the others in `required`"
        )


def _drop_minimum(result: dict[str, Any], place: str) -> None:
    """Removes a minimum that the required properties fulfil, and rejects any other minimum above 1.
    llguidance allows several additional properties with the same name, and counts each of them.
    """
    minimum = result.get("minProperties", 0)
    if minimum <= 1:
        return
    if minimum > len(result.get("required", ())):
        raise GrammarError(
            f"`minProperties` {minimum} at {place} is only supported up to 1 or up to the number of"
            " required properties"
        )
    del result["minProperties"]


def _add_format(schema: dict[str, Any], result: dict[str, Any], place: str) -> None:
    name = schema.get("format")
    types = schema.get("type", "string")
    if name is None or "string" not in (types if isinstance(types, list) else [types]):
        return
    if name in FORMATS:
        result["format"] = name
    elif name in FORMAT_PATTERNS:
        pattern = FORMAT_PATTERNS[name]
        if "pattern" not in result:
            result["pattern"] = pattern
        else:
            result["allOf"] = [*result.get("allOf", ()), {"pattern": pattern}]
    else:
        raise GrammarError(
            f"`format` {short_json(name)} at {place} is not supported; the supported formats are"
            f" {', '.join(sorted({*FORMATS, *FORMAT_PATTERNS}))}"
        )
