"""References inside one JSON schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, final
from urllib.parse import unquote

from tgi.grammar.constraint import GrammarError
from tgi.grammar.json_text import Json, short_json

__all__ = ["check_references", "resolve"]

_MAX_PASSES: Final = 32  # over all references of a schema
_MAPS: Final = ("$defs", "definitions", "properties", "patternProperties")
_LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMAS: Final = ("items", "additionalProperties")


def resolve(root: Json, reference: Json) -> Json:
    """The value in `root` at which a `$ref` points. Only `#` and JSON pointers such as
    `#/$defs/name` are supported. Nothing is fetched. Raises `GrammarError`.
    """
    shown = short_json(reference)
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise GrammarError(
            f"`$ref` {shown} is not supported; only references inside the schema, such as"
            ' "#/$defs/name", can be used'
        )
    value = root
    for part in reference.split("/")[1:]:
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            raise GrammarError(f"`$ref` {shown} points to no schema")
    return value


def check_references(root: Json) -> None:
    """Raises `GrammarError` if a reference points to no schema, or if a value would have to contain
    itself. A grammar of such a schema has no end.
    """
    schemas = list(_schemas(root))
    references = {schema["$ref"] for schema in schemas if "$ref" in schema}
    if not references:
        return
    known = {id(schema) for schema in schemas}
    targets = {reference: resolve(root, reference) for reference in references}
    for reference, target in targets.items():
        if not isinstance(target, bool) and id(target) not in known:
            raise GrammarError(f"`$ref` {short_json(reference)} points to no schema")
    _Finite(targets).check(root)


def _schemas(root: Json) -> Iterator[dict[str, Any]]:
    """All schemas below `root` that are objects."""
    waiting = [root]
    while waiting:
        schema = waiting.pop()
        if not isinstance(schema, dict):
            continue
        yield schema
        for keyword in _MAPS:
            waiting += schema.get(keyword, {}).values()
        for keyword in _LISTS:
            waiting += schema.get(keyword, ())
        waiting += [schema[keyword] for keyword in _SCHEMAS if keyword in schema]


@final
class _Finite:
    """Finds the references whose schemas allow a finite value."""

    def __init__(self, targets: dict[str, Any]) -> None:
        self._targets = targets
        self._finite: set[str] = set()
        self._tried: set[str] = set()  # in this pass

    def check(self, root: Json) -> None:
        """Each pass tries each reference once, until a pass finds no further one."""
        for _ in range(_MAX_PASSES):
            before = len(self._finite)
            self._tried.clear()
            if self._is_finite(root):
                return
            if len(self._finite) == before:
                break
        raise GrammarError("`$ref` makes the schema contain itself, so that no value is finite")

    def _is_finite(self, schema: Json) -> bool:
        if not isinstance(schema, dict):
            return schema is not False
        if "$ref" in schema and not self._is_target_finite(schema["$ref"]):
            return False
        if not all(self._is_finite(inner) for inner in schema.get("allOf", ())):
            return False
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema and not any(map(self._is_finite, schema[keyword])):
                return False
        return self._is_shape_finite(schema)

    def _is_shape_finite(self, schema: dict[str, Any]) -> bool:
        """Whether the keywords of the schema itself allow a finite value."""
        names = schema.get("type", "null")
        types = {*(names if isinstance(names, list) else [names])}
        if types - {"array", "object"} or "enum" in schema or "const" in schema:
            return True
        return ("object" in types and self._is_object_finite(schema)) or (
            "array" in types and self._is_array_finite(schema)
        )

    def _is_target_finite(self, reference: str) -> bool:
        if reference not in self._finite and reference not in self._tried:
            self._tried.add(reference)
            if self._is_finite(self._targets[reference]):
                self._finite.add(reference)
        return reference in self._finite

    def _is_object_finite(self, schema: dict[str, Any]) -> bool:
        properties = schema.get("properties", {})
        others = schema.get("additionalProperties", True)
        if "patternProperties" in schema:
            others = True
        names = schema.get("required", ())
        return all(self._is_finite(properties.get(name, others)) for name in names)

    def _is_array_finite(self, schema: dict[str, Any]) -> bool:
        minimum = schema.get("minItems", 0)
        first = schema.get("prefixItems", [])[:minimum]
        is_longer = minimum > len(first)
        return all(map(self._is_finite, first)) and (
            not is_longer or self._is_finite(schema.get("items", True))
        )
