"""The check of JSON schemas against the meta-schema, with the messages of TGI."""

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgi.server.generation.meta_schema import violation

ANY_OF = "is not valid under any of the schemas listed in the 'anyOf' keyword"
INVALID = [
    (1, '1 is not of types "boolean", "object"'),
    (None, 'null is not of types "boolean", "object"'),
    ({"type": "foo"}, f'"foo" {ANY_OF}'),
    ({"type": []}, f"[] {ANY_OF}"),
    ({"type": ["string", "string"]}, f'["string","string"] {ANY_OF}'),
    ({"type": ["string", 1]}, f'["string",1] {ANY_OF}'),
    ({"required": "a"}, '"a" is not of type "array"'),
    ({"required": ["a", 1]}, '1 is not of type "string"'),
    ({"required": ["a", "a"]}, '["a","a"] has non-unique elements'),
    ({"properties": []}, '[] is not of type "object"'),
    ({"properties": {"a": 1}}, '1 is not of types "boolean", "object"'),
    ({"items": {"type": "foo"}}, f'"foo" {ANY_OF}'),
    ({"anyOf": []}, "[] has less than 1 item"),
    ({"anyOf": [{}, {"allOf": [{"not": 3}]}]}, '3 is not of types "boolean", "object"'),
    ({"$defs": {"a": {"type": 1}}}, f"1 {ANY_OF}"),
    ({"minLength": -1}, "-1 is less than the minimum of 0"),
    ({"minLength": 0.5}, '0.5 is not of type "integer"'),
    ({"minItems": "1"}, '"1" is not of type "integer"'),
    ({"maximum": "1"}, '"1" is not of type "number"'),
    ({"maximum": True}, 'true is not of type "number"'),
    ({"multipleOf": 0}, "0 is less than or equal to the minimum of 0"),
    ({"pattern": 1}, '1 is not of type "string"'),
    ({"uniqueItems": 1}, '1 is not of type "boolean"'),
    ({"enum": "a"}, '"a" is not of type "array"'),
    ({"dependentRequired": {"a": "b"}}, '"b" is not of type "array"'),
]
VALID = [
    True,
    False,
    {},
    {"type": ["string", "null"], "minLength": 2.0, "default": 1, "const": None},
    {"properties": {"type": {"type": "string"}, "required": False}, "required": []},
    {"enum": [], "examples": [1], "x-mine": 1},
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(-1, 1) | st.sampled_from("ab"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=4,
)
KEYWORDS = [
    *("type", "properties", "items", "anyOf", "required", "minLength", "multipleOf", "enum"),
    *("not", "additionalProperties", "pattern", "uniqueItems", "$defs", "dependentRequired"),
]
SCHEMAS = st.dictionaries(st.sampled_from(KEYWORDS), VALUES, max_size=3)


@pytest.mark.parametrize(("schema", "message"), INVALID, ids=lambda value: str(value)[:40])
def test_a_violation_is_reported_in_the_words_of_tgi(schema, message):
    assert violation(schema) == message


@pytest.mark.parametrize("schema", VALID, ids=str)
def test_a_valid_schema_has_no_violation(schema):
    assert violation(schema) is None


@settings(max_examples=300, deadline=None)
@given(SCHEMAS)
def test_the_result_agrees_with_a_complete_validator(schema):
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError:
        assert violation(schema) is not None
    else:
        assert violation(schema) is None


def test_a_deeply_nested_schema_is_checked():
    schema = {"type": 1}
    for _ in range(100_000):
        schema = {"not": schema}
    assert violation(schema) is not None
    while "not" in schema:  # Python frees a deep structure recursively.
        schema = schema["not"]


def test_a_long_value_is_shortened():
    assert len(violation({"type": "a" * 1000})) < 400
