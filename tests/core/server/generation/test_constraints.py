"""Constraints in request bodies: TGI's `grammar`, OpenAI's formats and the fields of vLLM."""

import json

import msgspec
import pytest

from tgi.errors import ValidationError
from tgi.grammar.constraint import Constraint, GrammarError
from tgi.server.generation.constraints import (
    check_schema,
    format_constraint,
    guided_constraints,
    tgi_constraint,
    tgi_grammar,
)
from tgi.server.generation.parameters import Grammar

SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}
TEXT = json.dumps(SCHEMA, separators=(",", ":"))


def grammar(kind, value):
    return Grammar(kind, msgspec.Raw(json.dumps(value).encode()))


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("json", SCHEMA, Constraint("json_schema", json.dumps(SCHEMA))),
        ("json_object", SCHEMA, Constraint("json_schema", json.dumps(SCHEMA))),
        ("json", TEXT, Constraint("json_schema", TEXT)),
        ("json_schema", {"schema": SCHEMA, "strict": True}, Constraint("json_schema", TEXT)),
        ("json_schema", {"name": "n", "schema": SCHEMA}, Constraint("json_schema", TEXT)),
        ("regex", "[ab]+", Constraint("regex", "[ab]+")),
    ],
)
def test_tgis_grammars(kind, value, expected):
    assert tgi_constraint(grammar(kind, value)) == expected


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("json", "{", "EOF while parsing an object at line 1 column 1"),
        ("json", '{"properties":{},}', "trailing comma at line 1 column 18"),
        ("json", {"type": "foo"}, '"foo" is not valid under any of the schemas listed in the '),
        ("json", "1", '1 is not of types "boolean", "object"'),
        ("json", {"type": "object"}, "Grammar must have a 'properties' field"),
        ("json", "true", "Grammar must have a 'properties' field"),
        ("json_schema", {"schema": {"type": "array"}}, "Grammar must have a 'properties' field"),
        ("json_schema", {"name": "a"}, "missing field `schema`"),
        ("json_schema", 1, "missing field `schema`"),
        ("regex", {"a": 1}, "the value of a regex must be a string"),
        ("json", "[" * 100_000, ""),
    ],
)
def test_invalid_grammars_have_tgis_messages(kind, value, message):
    with pytest.raises(GrammarError) as caught:
        tgi_constraint(grammar(kind, value))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("value", [1, None, True, ["a"]])
def test_a_value_that_is_not_a_schema_is_not_supported(value):
    with pytest.raises(ValidationError, match=r"^grammar is not supported$"):
        tgi_constraint(grammar("json", value))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, Constraint("json_object")),
        ({"type": "json_object", "schema": SCHEMA}, Constraint("json_schema", TEXT)),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}},
            Constraint("json_schema", TEXT),
        ),
        (
            {"type": "json_schema", "json_schema": {"schema": {"type": "array"}}},
            Constraint("json_schema", '{"type":"array"}'),
        ),
        ({"type": "json_schema", "name": "n", "schema": SCHEMA}, Constraint("json_schema", TEXT)),
    ],
)
def test_openais_formats(value, expected):
    assert format_constraint(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("json_object", "`response_format` must be an object"),
        ({}, "`response_format.type` must be one of text, json_object, json_schema. Given: `null`"),
        ({"type": "xml"}, "`response_format.type` must be one of"),
        ({"type": "json_schema"}, "`response_format` has no schema. Send the schema as"),
        ({"type": "json_schema", "json_schema": {"name": "n"}}, "`response_format` has no schema"),
        (
            {"type": "json_schema", "json_schema": {"schema": "{}"}},
            "`response_format.json_schema.schema` must be a JSON schema",
        ),
        ({"type": "regex"}, "`response_format` of type `regex` must have the field `value`"),
    ],
)
def test_an_unknown_format_is_rejected_by_name(value, message):
    with pytest.raises(ValidationError) as caught:
        format_constraint(value)
    assert str(caught.value).startswith(message)


def test_a_format_with_a_value_is_tgis():
    found = tgi_grammar({"type": "json", "value": SCHEMA})
    assert (found.type, json.loads(bytes(found.value))) == ("json", SCHEMA)
    assert tgi_grammar({"type": "json_schema", "json_schema": {}}) is None
    assert tgi_grammar({"type": "text"}) is None
    assert tgi_grammar(None) is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, {}),
        ({"guided_json": None, "structured_outputs": None}, {}),
        ({"guided_json": SCHEMA}, {"guided_json": Constraint("json_schema", TEXT)}),
        ({"guided_json": TEXT}, {"guided_json": Constraint("json_schema", TEXT)}),
        ({"guided_regex": "a+"}, {"guided_regex": Constraint("regex", "a+")}),
        ({"guided_choice": ["a", "b"]}, {"guided_choice": Constraint("choice", '["a","b"]')}),
        ({"guided_grammar": "root ::= x"}, {"guided_grammar": Constraint("lark", "root ::= x")}),
        (
            {"structured_outputs": {"choice": ["a"], "regex": None, "json_object": False}},
            {"structured_outputs.choice": Constraint("choice", '["a"]')},
        ),
        (
            {"structured_outputs": {"json_object": True}},
            {"structured_outputs.json_object": Constraint("json_object")},
        ),
        (
            {"structured_outputs": {"json": SCHEMA}},
            {"structured_outputs.json": Constraint("json_schema", TEXT)},
        ),
    ],
)
def test_vllms_constraints(body, expected):
    assert guided_constraints(body) == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"structured_outputs": "a"}, "`structured_outputs` must be an object"),
        (
            {"structured_outputs": {"structural_tag": "{}"}},
            "`structured_outputs.structural_tag` is not supported. Supported constraints: json,",
        ),
        ({"structured_outputs": {"whitespace_pattern": " "}}, "`structured_outputs.whitespace_pa"),
        ({"guided_choice": []}, "`guided_choice` must be a list of at least one non-empty string"),
        ({"guided_choice": ["a", ""]}, "`guided_choice` must be a list of at least one"),
        ({"structured_outputs": {"choice": ["a", 1]}}, "`structured_outputs.choice` must be a"),
        ({"structured_outputs": {"regex": 1}}, "`structured_outputs.regex` must be a non-empty"),
        ({"guided_regex": ""}, "`guided_regex` must be a non-empty string"),
        ({"guided_json": 1}, "`guided_json` must be a JSON schema. Given: `1`"),
    ],
)
def test_an_invalid_constraint_is_rejected_by_name(body, message):
    with pytest.raises(ValidationError) as caught:
        guided_constraints(body)
    assert str(caught.value).startswith(message)


def test_a_schema_as_text_is_checked():
    check_schema(TEXT)
    with pytest.raises(GrammarError, match="EOF while parsing"):
        check_schema("{")
    with pytest.raises(GrammarError, match="anyOf"):
        check_schema('{"type":"foo"}')
