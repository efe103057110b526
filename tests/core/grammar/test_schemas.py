"""Tests of the texts that grammars of JSON schemas allow and forbid."""

import json

import pytest

from tests.core.grammar.walks import byte_vocabulary, is_accepted, matcher_for
from tgi.grammar.compile import check_grammar, compile_constraint
from tgi.grammar.constraint import Constraint, GrammarError

CASES = [
    # Whitespace: at most one space between two parts.
    ({"type": "array"}, ["[]", "[ ]", "[1, 2]", "[1 ,2]"], ["[\n]", "[1,  2]", " []", "[] "]),
    # A property has one spelling, so that no second spelling escapes its schema.
    (
        {"properties": {"a": {"type": "integer"}}, "additionalProperties": True},
        ['{"a":1}', '{"b":"x"}'],
        ['{"\\u0061":"x"}'],
    ),
    ({"properties": {"\x01": {"type": "null"}}}, ['{"\\u0001":null}'], ['{"\\u0001":1}']),
    ({"type": "string"}, ['"é🙂"', '"\\n"', '"/"'], ['"\\u0061"', '"\\/"', '"\n"', '"\x7f"']),
    # Expressions: the texts that match in all dialects.
    ({"pattern": r"^\d$"}, ['"1"'], ['"٣"', '"a"']),
    ({"pattern": r"^\S$"}, ['"a"'], ['"\ufeff"', '" "']),
    ({"pattern": r"^[\d_-]$"}, ['"1"', '"_"', '"-"'], ['"a"']),
    ({"pattern": r"^[^\d]$"}, ['"a"'], ['"1"', '"٣"']),
    ({"pattern": r"^[[&&a]$"}, ['"["', '"&"', '"a"'], ['"b"']),
    ({"pattern": r"^.$"}, ['"a"', '"\\t"'], ['"\\r"', '"\\n"', '"\u2028"']),
    ({"pattern": r"^a[\x00-\x1f]b$"}, ['"a\\nb"'], ['"ab"']),
    ({"pattern": "b"}, ['"abc"'], ['"ac"']),
    # Formats.
    ({"format": "date"}, ['"2024-02-29"', '"2000-02-29"'], ['"2023-02-29"', '"1900-02-29"']),
    ({"format": "time"}, ['"23:59:59Z"', '"01:02:03.4+05:30"'], ['"23:59:60Z"', '"24:00:00Z"']),
    ({"format": "date-time"}, ['"2024-02-29T00:00:00Z"'], ['"2023-02-29T00:00:00Z"', '"x"']),
    ({"format": "date", "pattern": "^20"}, ['"2024-01-01"'], ['"1924-01-01"']),
    ({"type": "integer", "format": "int64"}, ["1"], ['"a"']),
    # Numbers.
    ({"type": "integer", "minimum": -5.5, "multipleOf": 3}, ["-3", "0", "9"], ["-6", "8", "1.0"]),
    ({"type": "number", "exclusiveMinimum": 0.1}, ["0.11", "1"], ["0.1", "-1"]),
    # Objects and arrays.
    ({"type": "object", "minProperties": 1}, ['{"a":1}'], ["{}"]),
    ({"required": ["a", "b"], "minProperties": 2}, ['{"a":1,"b":1}'], ['{"a":1,"a":2}']),
    ({"type": "array", "items": [{"const": 1}], "additionalItems": False}, ["[1]"], ["[1,2]"]),
    ({"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 2}}, ["[1,2]"], ["[1,3]"]),
    # Keywords that clients leave out: the type, and `additionalProperties` beside `properties`.
    ({"properties": {"a": {"type": "null"}}}, ["{}", '{"a":null}'], ["1", "[]", '{"b":1}']),
    ({"type": "object", "properties": {}}, ["{}"], ['{"a":1}', "[]"]),
    ({"properties": {"a": {"items": {"const": 1}}}}, ['{"a":[1]}'], ['{"a":2}', '{"a":{}}']),
    ({"properties": {"a": {"maximum": 3}}}, ['{"a":2.5}'], ['{"a":"b"}', '{"a":4}']),
    ({"properties": {"a": {}}, "required": ["b"]}, ['{"b":1}'], ["{}", "2"]),
    ({"maxLength": 2, "minItems": 1}, ['"ab"', "[1]", "3"], ['"abc"', "[]"]),
    (
        {"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}}]},
        ['{"a":1,"b":2}', '{"c":3}'],
        ['{"a":2}', "1"],
    ),
    (
        {"anyOf": [{"properties": {"a": {"const": 1}}}, {"type": "null"}]},
        ['{"a":1}', "null"],
        ['{"b":1}', "3"],
    ),
    # In a combination, a schema with `properties` generates only objects.
    ({"properties": {}, "anyOf": [{"required": ["a"]}]}, ['{"a":1}'], ["1", "{}"]),
    ({"type": ["string", "object"], "properties": {}}, ['"a"', "{}"], ["1"]),
    ({"$ref": "#/$defs/a", "properties": {}, "$defs": {"a": {"const": 1}}}, ["1"], ["{}"]),
    # Names of properties are not keywords.
    ({"properties": {"not": {"type": "null"}, "$ref": {"type": "null"}}}, ['{"not":null}'], []),
    ({"const": {"not": {"if": 1}}}, ['{"not":{"if":1}}'], ["{}"]),
    # References.
    ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": 1}}}, ["1"], ["2"]),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}, "maxLength": 1}, ['"a"'], ['"ab"']),
    (
        {"type": "object", "properties": {"n": {"$ref": "#"}}, "additionalProperties": False},
        ["{}", '{"n":{"n":{}}}'],
        ['{"n":1}', '{"m":1}'],
    ),
    # Alternatives that exclude each other, also through references.
    (
        {
            "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
            "$defs": {
                "a": {"type": "object", "properties": {"k": {"const": "a"}}, "required": ["k"]},
                "b": {"type": "object", "properties": {"k": {"const": "b"}}, "required": ["k"]},
            },
        },
        ['{"k":"a"}', '{"k":"b"}'],
        ['{"k":"c"}'],
    ),
    # Keywords without effect.
    ({"type": "null", "uniqueItems": False, "dependentRequired": {}, "x-other": 1}, ["null"], []),
    (True, ["1", '"a"', "{}"], ["a"]),
]


@pytest.mark.parametrize(("schema", "accepted", "forbidden"), CASES)
def test_schema(vocabulary, schema, accepted, forbidden):
    matcher = matcher_for(vocabulary, "json_schema", json.dumps(schema))
    for text in accepted:
        assert is_accepted(matcher, text, vocabulary), text
    for text in forbidden:
        assert not is_accepted(matcher, text, vocabulary), text


def test_coerced_alternatives(vocabulary):
    schema = {"oneOf": [{"type": "integer"}, {"type": "number"}]}
    schema["x-guidance"] = {"coerce_one_of": True}
    matcher = matcher_for(vocabulary, "json_schema", json.dumps(schema))
    assert is_accepted(matcher, "1.5", vocabulary)


def test_any_object(vocabulary):
    matcher = matcher_for(vocabulary, "json_object")
    assert is_accepted(matcher, '{"a": [1, {"b": null}]}', vocabulary)
    assert not is_accepted(matcher, "[]", vocabulary)


OBJECTS = {"properties": {"a": {"type": "null"}}, "required": ["a"]}


@pytest.mark.parametrize("key", ["oneOf", "\\u006fneOf"])
@pytest.mark.parametrize("place", ['{"%s": %s}', '{"items": {"%s": %s}, "type": "array"}'])
def test_alternatives_without_a_type_match_values_of_every_type(place, key):
    """If `{"properties": …}` were an object here, the text would match one alternative only."""
    schema = place % (key, json.dumps([{"type": "string"}, OBJECTS]))
    with pytest.raises(GrammarError, match="`oneOf`"):
        check_grammar(compile_constraint(Constraint("json_schema", schema)), byte_vocabulary())


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (
            {"properties": {"a": {"type": "null", "const": 1}}, "required": ["a"]},
            "Unsatisfiable schema: required property 'a' is unsatisfiable",
        ),
        (
            {"properties": {"a": {}}, "additionalProperties": {}, "maxProperties": 1},
            "min/maxProperties only supported when all keys listed",
        ),
        ({"type": "string", "minLength": 2, "maxLength": 1}, "Unsatisfiable schema"),
        ({"type": "integer", "minimum": 2, "maximum": 1}, "Unsatisfiable schema"),
        ({"allOf": [{"type": "null"}, {"type": "string"}]}, "Unsatisfiable schema"),
        ({"type": "array", "minItems": 2, "maxItems": 1}, "Unsatisfiable schema"),
    ],
)
def test_the_error_begins_with_the_reason(schema, message):
    """The position in the grammar, which the client did not write, is not part of the message."""
    grammar = compile_constraint(Constraint("json_schema", json.dumps(schema)))
    with pytest.raises(GrammarError) as caught:
        check_grammar(grammar, byte_vocabulary())
    assert str(caught.value).startswith(message)
