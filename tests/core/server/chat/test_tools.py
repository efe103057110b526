"""Tools and tool choices in the bodies of all chat protocols."""

import json

import pytest

from tests.core.server.chat.conftest import FORMATS, HI, PLAIN, WITH_TOOLS
from tgi.errors import ToolError
from tgi.server.chat.tools import DEFAULT_TOOL_PROMPT
from tgi.server.http.json_reader import RejectionError
from tgi.text.output.formats import OutputFormats

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}
NAMES = ("get_weather", "add")


def chat_tool(name, parameters=SCHEMA, **fields):
    return {"type": "function", "function": {"name": name, "parameters": parameters, **fields}}


def flat_tool(name, parameters=SCHEMA, **fields):
    return {"type": "function", "name": name, "parameters": parameters, **fields}


def anthropic_tool(name, parameters=SCHEMA, **fields):
    return {"name": name, "input_schema": parameters, **fields}


BUILDERS = {CHAT: chat_tool, RESPONSES: flat_tool, MESSAGES: anthropic_tool}


def tools_of(path, *names, **fields):
    return [BUILDERS[path](name, **fields) for name in names]


def constraint_of(request):
    choice, is_parallel, schemas = json.loads(request.constraint.value)
    return choice, is_parallel, list(schemas)


AUTO, REQUIRED, ALONE = ("auto", True, [*NAMES]), ("required", True, [*NAMES]), ("required", True)


@pytest.mark.parametrize(
    ("path", "choice", "expected"),
    [
        (CHAT, None, AUTO),
        (CHAT, "auto", AUTO),
        (CHAT, "required", REQUIRED),
        (CHAT, "add", (*ALONE, ["add"])),
        (CHAT, {"type": "function", "function": {"name": "add"}}, (*ALONE, ["add"])),
        (CHAT, {"function": {"name": "add"}}, (*ALONE, ["add"])),
        (RESPONSES, None, AUTO),
        (RESPONSES, "auto", AUTO),
        (RESPONSES, "required", REQUIRED),
        (RESPONSES, {"type": "function", "name": "add"}, (*ALONE, ["add"])),
        (MESSAGES, None, AUTO),
        (MESSAGES, {"type": "auto"}, AUTO),
        (MESSAGES, {"type": "any"}, REQUIRED),
        (MESSAGES, {"type": "tool", "name": "add"}, (*ALONE, ["add"])),
        (
            MESSAGES,
            {"type": "auto", "disable_parallel_tool_use": True},
            ("auto", False, [*NAMES]),
        ),
    ],
)
async def test_the_choice_determines_the_constraint(convert, path, choice, expected):
    request = await convert(path, tools=tools_of(path, *NAMES), tool_choice=choice)
    assert constraint_of(request) == expected
    assert [tool.name for tool in request.output_style.tools] == expected[2]
    assert request.is_constraint_optional is (expected[:2] == ("auto", True))


@pytest.mark.parametrize(
    ("path", "choice"), [(CHAT, "none"), (RESPONSES, "none"), (MESSAGES, {"type": "none"})]
)
async def test_no_tool_is_used_if_the_choice_is_none(convert, path, choice):
    request = await convert(path, tools=tools_of(path, *NAMES), tool_choice=choice)
    assert request.constraint is None
    assert request.output_style.is_plain
    assert request.prompt == "user: hi\n"


@pytest.mark.parametrize("path", BUILDERS)
@pytest.mark.parametrize("tools", [None, []])
async def test_a_request_without_tools_is_plain(convert, path, tools):
    request = await convert(path, tools=tools)
    assert (request.constraint, request.is_guided) == (None, False)
    assert request.output_style.is_plain


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_parallel_calls_can_be_forbidden(convert, path):
    request = await convert(path, tools=tools_of(path, *NAMES), parallel_tool_calls=False)
    assert constraint_of(request) == ("auto", False, [*NAMES])
    assert request.is_constraint_optional is False


@pytest.mark.parametrize("path", BUILDERS)
async def test_arguments_are_exact_only_if_the_client_requires_it(convert, path):
    loose = await convert(path, tools=tools_of(path, "f"))
    strict = await convert(path, tools=tools_of(path, "f", strict=True))
    assert json.loads(loose.constraint.value)[2] == {"f": SCHEMA}
    assert json.loads(loose.loose_constraint.value)[2] == {"f": {"type": "object"}}
    assert strict.loose_constraint is None
    assert strict.is_constraint_optional is False


@pytest.mark.parametrize("path", BUILDERS)
async def test_the_template_gets_the_tools_in_the_form_of_transformers(convert, path):
    request = await convert(path, tools=tools_of(path, "f", description="Do."))
    function = {"name": "f", "description": "Do.", "parameters": SCHEMA}
    tools, rest = request.prompt.split("\n", 1)
    assert tools == json.dumps([{"type": "function", "function": function}])
    assert rest == "user: hi\n"


@pytest.mark.parametrize("path", BUILDERS)
@pytest.mark.parametrize("parameters", [None, {}])
async def test_a_tool_may_have_no_parameters_and_no_description(convert, path, parameters):
    request = await convert(path, tools=tools_of(path, "f", parameters=parameters))
    [shown] = json.loads(request.prompt.split("\n", 1)[0])
    empty = {"type": "object", "properties": {}}
    assert shown["function"] == {"name": "f", "description": "", "parameters": empty}


async def test_tgis_name_of_the_parameters_is_accepted(convert):
    tool = {"type": "function", "function": {"name": "f", "arguments": SCHEMA}}
    request = await convert(CHAT, tools=[tool])
    assert json.loads(request.constraint.value)[2] == {"f": SCHEMA}


async def test_tools_are_appended_if_the_template_does_not_use_them(convert):
    request = await convert(CHAT, PLAIN, tools=[chat_tool("f"), chat_tool("g", None)])
    schema = json.dumps(json.dumps(SCHEMA, separators=(",", ":")))
    empty = json.dumps('{"type":"object","properties":{}}')
    tools = (
        f'[{{"type":"function","function":{{"description":null,"name":"f","arguments":{schema}}}}},'
        f'{{"type":"function","function":{{"description":null,"name":"g","arguments":{empty}}}}}]'
    )
    assert request.prompt == f"user: hi\n---\n{tools}\n{DEFAULT_TOOL_PROMPT}\n"


@pytest.mark.parametrize(
    ("source", "prompt", "ending"),
    [
        (PLAIN, "Call!", "]\nCall!\n"),
        (PLAIN, "", f"]\n{DEFAULT_TOOL_PROMPT}\n"),
        (WITH_TOOLS, "Call!", "hi\n---\nCall!\n"),
        (WITH_TOOLS, "", "user: hi\n"),
    ],
)
async def test_the_tool_prompt_is_appended(convert, source, prompt, ending):
    request = await convert(CHAT, source, tools=[chat_tool("f")], tool_prompt=prompt)
    assert request.prompt.endswith(ending)


async def test_tools_are_appended_to_the_last_part_of_a_message(convert):
    messages = [HI, {"role": "user", "content": [{"type": "text", "text": "a"}]}]
    request = await convert(CHAT, PLAIN, tools=[chat_tool("f")], messages=messages)
    assert request.prompt.startswith("user: hi\nuser: a\n---\n[")


async def test_the_template_for_tools_is_used(make_client, make_template):
    template = make_template(PLAIN, tool_use="{{ tools[0].function.name }} {{ enable_thinking }}")
    body = {"messages": [HI], "tools": [chat_tool("f")], "enable_thinking": False}
    async with make_client(chat_template=template, output_formats=FORMATS) as client:
        response = await client.post("/chat_tokenize", json=body)
    assert response.json()["templated_text"] == "f False"


INVALID_TOOLS = [
    (
        {"tools": [{"type": "web_search"}]},
        CHAT,
        "`tools[0]` of type `web_search` has no `function`",
    ),
    ({"tools": [{"type": "web_search"}]}, RESPONSES, "`tools[0]` of type `web_search` is not su"),
    (
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        MESSAGES,
        "`tools[0]` of type `web_search_20250305` is not supported",
    ),
    ({"tools": [chat_tool("")]}, CHAT, "`tools[0].function.name` must have 1 to 128 characters"),
    ({"tools": [chat_tool("a b")]}, CHAT, "`tools[0].function.name` must have 1 to 128"),
    ({"tools": [chat_tool("<f>\n")]}, CHAT, "`tools[0].function.name` must have 1 to 128"),
    ({"tools": [chat_tool("f" * 129)]}, CHAT, "`tools[0].function.name` must have 1 to 128"),
    ({"tools": [anthropic_tool(None)]}, MESSAGES, "`tools[0].name` must have 1 to 128"),
    ({"tools": [chat_tool("f", "{}")]}, CHAT, "`tools[0].function` of the tool `f` must have a J"),
    ({"tools": [flat_tool("f", [1])]}, RESPONSES, "`tools[0]` of the tool `f` must have a JSON"),
    ({"tools": [chat_tool("f", {"type": "string"})]}, CHAT, "`tools[0].function` of the tool `f` "),
    ({"tools": [flat_tool("f", {"type": ["array"]})]}, RESPONSES, "`tools[0]` of the tool `f` mus"),
    ({"tools": [anthropic_tool("f", {"type": []})]}, MESSAGES, "`tools[0]` of the tool `f` must h"),
    (
        {"tools": [chat_tool("f"), chat_tool("g"), chat_tool("f")]},
        CHAT,
        "`tools` must have different names. Repeated: `f`",
    ),
    ({"tools": [chat_tool("f")], "tool_choice": "g"}, CHAT, "Tool with name g not found"),
    ({"tools": [], "tool_choice": "g"}, CHAT, "Tool with name g not found"),
    ({"tool_choice": "required"}, CHAT, "`tool_choice` requires a tool call, but the request has"),
    (
        {"tools": [flat_tool("f")], "tool_choice": {"type": "web_search"}},
        RESPONSES,
        "`tool_choice` must be `none`, `auto`, `required` or the name of a function",
    ),
    (
        {"tools": [anthropic_tool("f")], "tool_choice": {"type": "tool"}},
        MESSAGES,
        "`tool_choice` of type `tool` must have a `name`",
    ),
    (
        {"tools": [anthropic_tool("f")], "tool_choice": {"type": "some"}},
        MESSAGES,
        "`tool_choice.type` must be one of auto, any, tool, none. Given: `some`",
    ),
    (
        {"tools": [], "response_format": {"type": "json_object"}},
        CHAT,
        "Grammar and tools are mutually exclusive",
    ),
    (
        {"tools": [chat_tool("f")], "guided_regex": "a"},
        CHAT,
        "Grammar and tools are mutually exclusive",
    ),
    (
        {"tools": [flat_tool("f")], "text": {"format": {"type": "json_object"}}},
        RESPONSES,
        "`text.format` and `tools` are mutually exclusive",
    ),
    (
        {"tools": [anthropic_tool("f")], "output_format": {"type": "json_schema", "schema": {}}},
        MESSAGES,
        "`output_format` and `tools` are mutually exclusive",
    ),
]


@pytest.mark.parametrize(("fields", "path", "message"), INVALID_TOOLS)
async def test_invalid_tools_are_rejected(convert, fields, path, message):
    with pytest.raises(ToolError) as caught:
        await convert(path, **fields)
    assert str(caught.value).startswith(message)
    assert caught.value.text.startswith("Tool error: ")
    assert (caught.value.status, caught.value.error_type) == (422, "tool_error")


@pytest.mark.parametrize("name", ["a.b", "mcp/x:y", "größe", "_name", "F" * 128])
async def test_names_may_have_letters_of_any_language(convert, name):
    request = await convert(CHAT, tools=[chat_tool(name)])
    assert constraint_of(request)[2] == [name]


async def test_a_choice_of_an_unknown_schema_is_rejected(convert):
    with pytest.raises(RejectionError, match="untagged enum ToolTypeDeserializer"):
        await convert(CHAT, tools=[chat_tool("f")], tool_choice={"type": "function"})


async def test_a_text_format_and_tools_are_possible(convert):
    request = await convert(CHAT, tools=[chat_tool("f")], response_format={"type": "text"})
    assert constraint_of(request) == ("auto", True, ["f"])


async def test_hundreds_of_tools_are_accepted(convert):
    tools = [chat_tool(f"f{number}") for number in range(300)]
    request = await convert(CHAT, tools=tools)
    assert len(request.output_style.tools) == 300


@pytest.mark.parametrize("path", BUILDERS)
async def test_tools_need_a_known_format(convert, path):
    with pytest.raises(ToolError, match="`--tool-call-parser`"):
        await convert(path, formats=OutputFormats(None, None), tools=tools_of(path, "f"))


async def test_integers_above_64_bits_in_a_schema_are_rejected(make_client, make_template):
    schema = {"type": "object", "properties": {"a": {"maximum": 10**30}}}
    body = {"messages": [HI], "tools": [chat_tool("f", schema)]}
    async with make_client(
        chat_template=make_template(WITH_TOOLS), output_formats=FORMATS
    ) as client:
        response = await client.post(CHAT, json=body)
    assert (response.status_code, response.json()["error_type"]) == (422, "template_error")


async def test_the_status_and_the_type_of_an_error(make_client):
    body = {"messages": [HI], "tools": [chat_tool("f")], "tool_choice": "g"}
    async with make_client(output_formats=FORMATS) as client:
        response = await client.post(CHAT, json=body)
        tokenized = await client.post("/chat_tokenize", json=body)
    assert (response.status_code, response.json()["error_type"]) == (422, "tool_error")
    assert response.json()["error"]["message"] == "Tool error: Tool with name g not found"
    assert (tokenized.status_code, tokenized.json()["error_type"]) == (422, "tool_error")


async def test_the_prompt_with_tools_can_be_tokenized(make_client, make_template):
    body = {"messages": [HI], "tools": [chat_tool("f")]}
    template = make_template(WITH_TOOLS)
    async with make_client(chat_template=template, output_formats=FORMATS) as client:
        response = await client.post("/chat_tokenize", json=body)
    assert '"name": "f"' in response.json()["templated_text"]


async def test_tools_count_as_input_tokens(make_client, make_template):
    body = {"messages": [HI]}
    template = make_template(WITH_TOOLS)
    path = "/v1/messages/count_tokens"
    async with make_client(chat_template=template, output_formats=FORMATS) as client:
        without = (await client.post(path, json=body)).json()["input_tokens"]
        tools = [anthropic_tool("f")]
        counted = (await client.post(path, json=body | {"tools": tools})).json()["input_tokens"]
    assert counted > without
