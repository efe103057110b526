"""Random outputs of the grammars of tool calls: the parser of the format recognizes all calls, and
the arguments follow the schema.
"""

import json
import random

import jsonschema
import numpy as np
import pytest

from tests.core.text.output.parsing import items_of, parts_of
from tests.core.text.output.walking import EOS, FORMATS, Walk
from tgi.text.output import OutputFormats, ToolChoice, ToolDefinition

NUM_WALKS = 12
MAX_TOKENS = 4000
SCHEMAS = {
    "set_unit": {
        "type": "object",
        "properties": {"unit": {"type": "string", "enum": ["°C", '"F"', "K\\"]}},
        "required": ["unit"],
        "additionalProperties": False,
    },
    "mark": {
        "type": "object",
        "properties": {
            "a": {"type": "boolean"},
            "b": {"type": "array", "items": {"enum": [None, 1, "]}"]}, "maxItems": 3},
            "c": {
                "type": "object",
                "properties": {"d": {"const": "</tool_call>"}},
                "additionalProperties": False,
            },
        },
        "additionalProperties": False,
    },
}
TOOLS = tuple(ToolDefinition(name, None, json.dumps(schema)) for name, schema in SCHEMAS.items())


def random_output(walk, rng):
    """A random output that the masks allow, or None if it is too long."""
    matcher, ids = walk.start.copy(), []
    words = np.zeros(walk.vocabulary.mask_width, np.int32)
    texts = {number: marker.encode() for marker, number in walk.ids.items()}
    for _ in range(MAX_TOKENS):
        matcher.fill(words)
        assert not matcher.error, matcher.error
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")
        allowed = np.flatnonzero(bits)
        token = EOS if EOS in allowed and rng.random() < 0.7 else int(rng.choice(allowed))
        if token == EOS:
            return b"".join(texts.get(number, bytes([number % 256])) for number in ids).decode()
        ids.append(token)
        matcher.accept(token)
    return None


@pytest.mark.parametrize("is_special", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_random_outputs_of_required_calls_are_calls(name, is_special):
    walk = Walk(name, ToolChoice.REQUIRED, is_special=is_special, tools=TOOLS)
    style = OutputFormats(walk.format).for_request(TOOLS, "")
    rng, found = random.Random(name), set()
    for _ in range(NUM_WALKS):
        output = random_output(walk, rng)
        assert output is not None
        for kind, tool, arguments in items_of(parts_of(style, [output])):
            assert kind == "call", output
            jsonschema.validate(json.loads(arguments), SCHEMAS[tool])
            found.add(tool)
    assert found == set(SCHEMAS)


# A format that adds a member to the arguments would change the meaning of these schemas.
COUNT = {"type": "integer", "minimum": 0, "maximum": 9}
CLOSED = {
    "type": "object",
    "properties": {"n": COUNT},
    "required": ["n"],
    "additionalProperties": False,
}
OTHER_SCHEMAS = {
    "reference": {"$ref": "#/$defs/A", "$defs": {"A": CLOSED}},
    "recursion": {
        **CLOSED,
        "properties": {"n": COUNT, "next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
    },
    "all": {"allOf": [CLOSED]},
    "any": {"anyOf": [CLOSED, {**CLOSED, "properties": {"n": {"const": "x"}}}]},
    "largest": {"type": "object", "properties": {}, "maxProperties": 1},
    "smallest": {**CLOSED, "required": [], "minProperties": 1},
    "names": {
        "type": "object",
        "patternProperties": {"^[a_]": COUNT},
        "additionalProperties": False,
        "maxProperties": 2,
    },
    "name": {**CLOSED, "properties": {"n": COUNT, "_name": COUNT}, "required": ["n", "_name"]},
    "const": {"const": {"n": 3}},
    "enum": {"enum": [{"n": 3}, {"_name": "x"}]},
}


@pytest.mark.parametrize("choice", ToolChoice)
@pytest.mark.parametrize("kind", OTHER_SCHEMAS)
def test_required_calls_follow_schemas_that_allow_no_other_member(kind, choice):
    tools = (ToolDefinition("f", None, json.dumps(OTHER_SCHEMAS[kind])),)
    walk = Walk("tgi", choice, tools=tools)
    style = OutputFormats(walk.format).for_request(tools, "")
    rng, calls = random.Random(kind), []
    for _ in range(NUM_WALKS):
        output = random_output(walk, rng)
        calls += [] if output is None else items_of(parts_of(style, [output]))
    if choice is ToolChoice.REQUIRED:
        assert {item[0] for item in calls} == {"call"}
    for item in calls:
        if item[0] == "call":
            jsonschema.validate(json.loads(item[2]), OTHER_SCHEMAS[kind])
