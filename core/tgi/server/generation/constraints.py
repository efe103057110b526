"""Converts the constraints in request bodies to `Constraint` records: TGI's `grammar`, OpenAI's
`response_format`, and the fields of vLLM (`structured_outputs`, `guided_json` and others).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tgi.errors import ValidationError
from tgi.grammar.constraint import Constraint, GrammarError
from tgi.server.generation.meta_schema import violation
from tgi.server.generation.parameters import Grammar
from tgi.server.http.json_scanner import JsonError, JsonScanner

__all__ = [
    "check_schema",
    "format_constraint",
    "guided_constraints",
    "tgi_constraint",
    "tgi_grammar",
]

_FORMATS = ("text", "json_object", "json_schema")
_GUIDED = ("json", "regex", "choice", "grammar", "json_object")


def tgi_constraint(grammar: Grammar) -> Constraint:
    """Convert TGI's `grammar`. Raises `GrammarError` for an invalid grammar, and `ValidationError`
    if the value has a type that is not supported. The messages are those of TGI.
    """
    value = _decoded(grammar.value)
    if grammar.type == "regex":
        if not isinstance(value, str):
            raise GrammarError("the value of a regex must be a string")
        return Constraint("regex", value)
    if grammar.type == "json_schema":
        if not isinstance(value, dict) or "schema" not in value:
            raise GrammarError("missing field `schema`")
        schema, text = value["schema"], _text(value["schema"])
    elif isinstance(value, str):
        schema, text = _parsed(value), value
    elif isinstance(value, dict):
        schema, text = value, bytes(grammar.value).decode()
    else:
        raise ValidationError("grammar is not supported")
    found = violation(schema)
    if found is not None:
        raise GrammarError(found)
    if not isinstance(schema, dict) or "properties" not in schema:
        raise GrammarError("Grammar must have a 'properties' field")
    return Constraint("json_schema", text)


def check_schema(text: str) -> None:
    """Check that a text is a JSON schema. Raises `GrammarError` if it is not JSON or violates the
    meta-schema of draft 2020-12.
    """
    found = violation(_parsed(text))
    if found is not None:
        raise GrammarError(found)


def tgi_grammar(response_format: object) -> Grammar | None:
    """Return the grammar of a `response_format` in TGI's schema, which has a field `value`. Returns
    None for other schemas.
    """
    match response_format:
        case {"type": "json" | "json_object" | "json_schema" | "regex" as kind, "value": value}:
            return msgspec.convert(
                {"type": kind, "value": msgspec.Raw(msgspec.json.encode(value))}, Grammar
            )
    return None


def format_constraint(response_format: object, field: str = "response_format") -> Constraint | None:
    """Convert a format in OpenAI's schema. Returns None if any text is allowed. `field` names the
    format in error messages. Raises `ValidationError` for an unknown or incomplete format.
    """
    if response_format is None:
        return None
    if not isinstance(response_format, dict):
        raise ValidationError(f"`{field}` must be an object")
    match response_format:
        case {"type": "text"}:
            return None
        case {"type": "json_object", "schema": schema} if schema is not None:  # as llama.cpp
            return _schema_constraint(schema, f"{field}.schema")
        case {"type": "json_object"}:
            return Constraint("json_object")
        case {"type": "json_schema", "json_schema": {"schema": schema}} if schema is not None:
            return _schema_constraint(schema, f"{field}.json_schema.schema")
        case {"type": "json_schema", "schema": schema} if schema is not None:  # `/v1/responses`
            return _schema_constraint(schema, f"{field}.schema")
        case {"type": "json_schema"}:
            place = f"{field}.json_schema" if field == "response_format" else field
            raise ValidationError(f"`{field}` has no schema. Send the schema as `{place}.schema`")
        case {"type": "json" | "regex" as kind} if field == "response_format":
            raise ValidationError(f"`{field}` of type `{kind}` must have the field `value`")
    raise ValidationError(
        f"`{field}.type` must be one of {', '.join(_FORMATS)}. Given:"
        f" {_shown(response_format.get('type'))}"
    )


def guided_constraints(body: Mapping[str, Any]) -> dict[str, Constraint]:
    """Convert the fields of vLLM. `body` contains the values of `structured_outputs`,
    `guided_json`, `guided_regex`, `guided_choice` and `guided_grammar`. Returns the constraints by
    field. Raises `ValidationError` for an unknown kind or a wrong value.
    """
    fields = {name: value for name, value in body.items() if value is not None}
    nested = fields.pop("structured_outputs", None)
    if nested is not None:
        if not isinstance(nested, dict):
            raise ValidationError("`structured_outputs` must be an object")
        fields |= {
            f"structured_outputs.{name}": value
            for name, value in nested.items()
            if value is not None and value is not False
        }
    found = {}
    for field, value in fields.items():
        kind = field.removeprefix("structured_outputs.").removeprefix("guided_")
        if kind not in _GUIDED:
            raise ValidationError(
                f"`{field}` is not supported. Supported constraints: {', '.join(_GUIDED)}"
            )
        found[field] = _guided_constraint(field, kind, value)
    return found


def _guided_constraint(field: str, kind: str, value: object) -> Constraint:
    match kind:
        case "json_object":
            return Constraint("json_object")
        case "json" if isinstance(value, str):
            return Constraint("json_schema", value)
        case "json":
            return _schema_constraint(value, field)
        case "choice":
            # The list may be long, so no Python code runs for each entry.
            if isinstance(value, list) and {*map(type, value)} == {str} and "" not in value:
                return Constraint("choice", _text(value))
            raise ValidationError(f"`{field}` must be a list of at least one non-empty string")
        case _:
            if not isinstance(value, str) or not value:
                raise ValidationError(f"`{field}` must be a non-empty string")
            return Constraint("regex" if kind == "regex" else "lark", value)


def _schema_constraint(schema: object, field: str) -> Constraint:
    if not isinstance(schema, dict | bool):
        raise ValidationError(f"`{field}` must be a JSON schema. Given: {_shown(schema)}")
    return Constraint("json_schema", _text(schema))


def _decoded(value: msgspec.Raw) -> Any:  # noqa: ANN401 - any JSON
    try:
        return msgspec.json.decode(value)
    except RecursionError:
        raise GrammarError("the JSON is nested too deeply") from None


def _parsed(text: str) -> object:
    """Parse JSON. Raises `GrammarError` with the message that TGI's parser has for this error."""
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise GrammarError("the JSON is nested too deeply") from None
    except msgspec.DecodeError as error:
        try:
            JsonScanner(text.encode()).skip_value()
        except JsonError as found:
            raise GrammarError(f"{found}") from None
        raise GrammarError(f"{error}") from None


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else _text(value)
    return f"`{text[:64]}`"
