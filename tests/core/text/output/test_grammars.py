"""The grammars of tool calls: the calls that they allow, and the calls that they reject."""

import json

import pytest

from tests.core.text.output.parsing import items_of, parts_of
from tests.core.text.output.samples import (
    CALLS,
    CALLS_END,
    PARIS,
    deepseek,
    deepseek_31,
    glm,
    harmony,
)
from tests.core.text.output.walking import FORMATS, Walk, granite, llama, mistral
from tgi.text.output import OutputFormats, ToolChoice, ToolDefinition


@pytest.mark.parametrize("is_special", [False, True])
@pytest.mark.parametrize("choice", ToolChoice)
@pytest.mark.parametrize("name", FORMATS)
def test_a_call_follows_the_schema(name, choice, is_special):
    walk, (write, _) = Walk(name, choice, is_special=is_special), FORMATS[name]
    assert walk.allows(write(PARIS))
    assert walk.allows(write('{"city": "<x", "days": 3}'))
    assert walk.allows(write("{}", "now"))
    assert not walk.allows(write('{"minutes": "x"}', "set_timer"))
    assert not walk.allows(write("{}", "set_timer"))
    assert not walk.allows(write('{"minutes": 1, "other": 2}', "set_timer"))
    # Without a marker, a JSON text with another name is no call.
    is_text = choice is ToolChoice.AUTO and name == "llama3_json"
    assert walk.allows(write(PARIS, "later")) is is_text
    assert not walk.allows(write(PARIS)[:-1])


@pytest.mark.parametrize("is_special", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_text_is_allowed_unless_a_call_is_required(name, is_special):
    text = "Some text, <b>tags</b>, [1], {}.\n"
    if name == "gpt_oss":
        text = harmony("final", text, "")
    assert Walk(name, ToolChoice.AUTO, is_special=is_special).allows(text)
    assert not Walk(name, ToolChoice.REQUIRED, is_special=is_special).allows(text, is_whole=False)
    assert not Walk(name, ToolChoice.REQUIRED, is_special=is_special).allows("")


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("llama3_json", "tgi")])
def test_a_call_may_follow_a_text(name):
    text = "Wait. "
    if name == "gpt_oss":
        text = harmony("commentary", "Wait.") + "<|start|>assistant"
    for is_special in (False, True):
        walk, (write, _) = Walk(name, ToolChoice.AUTO, is_special=is_special), FORMATS[name]
        assert walk.allows(text + write(PARIS))
        assert not walk.allows(text + write('{"days": 3}'))


@pytest.mark.parametrize("choice", ToolChoice)
@pytest.mark.parametrize(
    "name", [name for name, (_, between) in FORMATS.items() if between is not None]
)
def test_several_calls_are_allowed_only_in_parallel(name, choice):
    write, between = FORMATS[name]
    both = write(PARIS) + between + write("{}", "now")
    assert Walk(name, choice).allows(both)
    assert not Walk(name, choice, is_parallel=False).allows(both)


@pytest.mark.parametrize("choice", ToolChoice)
@pytest.mark.parametrize(
    ("name", "both"),
    [
        ("mistral", mistral(PARIS)[:-1] + ', {"name": "now", "arguments": {}}]'),
        ("granite", granite(PARIS)[:-1] + ', {"name": "now", "arguments": {}}]'),
        (
            "deepseek v3",
            f"{CALLS}{deepseek('get_weather', PARIS)}\n{deepseek('now', '{}')}{CALLS_END}",
        ),
        (
            "deepseek v3.1",
            f"{CALLS}{deepseek_31('get_weather', PARIS)}{deepseek_31('now', '{}')}{CALLS_END}",
        ),
    ],
)
def test_one_block_contains_several_calls_only_in_parallel(name, both, choice):
    assert Walk(name, choice).allows(both)
    assert not Walk(name, choice, is_parallel=False).allows(both)


@pytest.mark.parametrize("name", FORMATS)
def test_the_parser_recognizes_the_calls_of_the_grammar(name):
    write, _ = FORMATS[name]
    walk = Walk(name, ToolChoice.REQUIRED)
    style = OutputFormats(walk.format).for_request(walk.tools, "")
    for arguments in (PARIS, '{"city": "<x", "days": 3}'):
        assert walk.allows(write(arguments))
        assert items_of(parts_of(style, [write(arguments)])) == [("call", "get_weather", arguments)]


@pytest.mark.parametrize("name", ["llama3_json", "tgi"])
def test_a_json_text_is_allowed_beside_calls_without_markers(name):
    walk = Walk(name, ToolChoice.AUTO)
    assert walk.allows('{"city": "Paris"}')
    assert walk.allows('{"name": "Alice", "age": 3}')
    assert walk.allows('{"name": "now"}') is False
    assert walk.allows("\n")
    assert walk.allows("")


def test_the_format_of_tgis_prompt_is_allowed_unless_a_call_is_required():
    assert Walk("tgi", ToolChoice.AUTO).allows(llama(PARIS))
    assert not Walk("tgi", ToolChoice.AUTO).allows(llama('{"days": 3}'))
    assert not Walk("tgi", ToolChoice.REQUIRED).allows(llama(PARIS))


def test_tgis_function_for_no_tool_is_allowed():
    output = '{"function": {"_name": "no_tool"}}'
    assert Walk("tgi", ToolChoice.AUTO).allows(output)
    assert not Walk("tgi", ToolChoice.REQUIRED).allows(output)


ODD_SCHEMAS = [
    "{}",
    "true",
    '{"properties": {"a": {}}}',
    '{"properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"type": "null"}}}',
    '{"type": "object", "required": ["a"]}',
    '{"type": ["object", "array", "null"]}',
    '{"anyOf": [{"type": "object", "properties": {"a": {"type": "null"}}}]}',
]


@pytest.mark.parametrize("schema", ODD_SCHEMAS)
@pytest.mark.parametrize("name", FORMATS)
def test_the_arguments_are_an_object_for_every_schema(name, schema):
    walk = Walk(name, ToolChoice.REQUIRED, tools=(ToolDefinition("now", None, schema),))
    # In TGI's format, the arguments are a member of their own if the schema has `anyOf`.
    write = llama if name == "tgi" and "anyOf" in schema else FORMATS[name][0]
    assert walk.allows(write('{"a": null}', "now"))
    if name != "glm45":
        assert not walk.allows(write("[]", "now"))


@pytest.mark.parametrize("tool_name", ['a"b', "a\\b", "ü", "a.b-c_d", "a/b"])
@pytest.mark.parametrize("name", ["hermes", "llama3_json", "granite", "tgi"])
def test_unusual_names_are_escaped(name, tool_name):
    tool = ToolDefinition(tool_name)
    walk = Walk(name, ToolChoice.REQUIRED, tools=(tool,))
    write, _ = FORMATS[name]
    output = write("{}", json.dumps(tool_name, ensure_ascii=False)[1:-1])
    assert walk.allows(output)
    style = OutputFormats(walk.format).for_request((tool,), "")
    assert items_of(parts_of(style, [output])) == [("call", tool_name, "{}")]


def test_a_value_of_glm_is_one_of_the_choices():
    schema = '{"type": "object", "properties": {"unit": {"type": "string", "enum": ["C", "F"]}}}'
    walk = Walk("glm45", ToolChoice.REQUIRED, tools=(ToolDefinition("now", None, schema),))
    assert walk.allows(glm("now", unit="F"))
    assert not walk.allows(glm("now", unit="K"))
