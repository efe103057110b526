"""Tools over HTTP with the real formats of tool calls: the guidance for the engine, and errors."""

import pytest

from tests.core.server.chat.conftest import HI, WITH_TOOLS
from tests.core.server.fake_engine import FakeEngine
from tgi.config.options import REASONING_PARSERS, TOOL_CALL_PARSERS
from tgi.text.output import formats
from tgi.text.output.formats import OutputFormats

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
INEXPRESSIBLE = {"type": "object", "properties": {"a": {"not": {"type": "null"}}}}
PARSERS = [name for name in TOOL_CALL_PARSERS if name not in ("auto", "none")]
LIMITS = {"max_total_tokens": 2000, "max_input_tokens": 1900}


def chat_body(schema=SCHEMA, **fields):
    function = {"name": "f", "description": "d", "parameters": schema}
    strict = fields.pop("strict", None)
    if strict is not None:
        function["strict"] = strict
    tools = [{"type": "function", "function": function}]
    return {"messages": [HI], "max_tokens": 4, "tools": tools, **fields}


@pytest.fixture
def ask(make_client, make_template):
    """Return a function that sends a body and returns the response and the engine's requests."""

    async def run(body, parser="hermes", *, path=CHAT, features=("mask",), **changes):
        chosen = OutputFormats.detect("", {}, tool_call_parser=parser)
        engine = FakeEngine(features=features)
        changes = {**LIMITS, "chat_template": make_template(WITH_TOOLS), **changes}
        async with make_client(engine, output_formats=chosen, **changes) as client:
            return await client.post(path, json=body), engine.requests

    return run


def test_the_options_are_the_names_of_the_parsers():
    assert TOOL_CALL_PARSERS == formats.TOOL_CALL_PARSERS
    assert REASONING_PARSERS == formats.REASONING_PARSERS


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize(
    "choice", ["auto", "required", {"type": "function", "function": {"name": "f"}}]
)
async def test_every_format_has_a_grammar(ask, parser, choice):
    response, [request] = await ask(chat_body(tool_choice=choice), parser)
    assert response.status_code == 200, response.text
    assert '"integer"' in request.guidance.grammar


@pytest.mark.parametrize("parser", PARSERS)
async def test_a_schema_that_cannot_be_expressed_is_weakened_with_auto(ask, parser):
    response, [request] = await ask(chat_body(INEXPRESSIBLE), parser)
    assert response.status_code == 200, response.text
    assert request.guidance is not None
    assert '"not"' not in request.guidance.grammar


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "f"}, "tool_choice"),
        ({"strict": True}, "tools"),
    ],
)
async def test_a_required_schema_that_cannot_be_expressed_is_rejected(ask, fields, name):
    response, requests = await ask(chat_body(INEXPRESSIBLE, **fields))
    message = response.json()["error"]["message"]
    assert (response.status_code, requests) == (422, [])
    assert message.startswith(f"Input validation error: `{name}` is not valid: ")
    assert "not" in message.split("is not valid: ")[1]


@pytest.mark.parametrize(
    ("features", "config"), [((), {}), (("mask",), {"disable_grammar_support": True})]
)
async def test_auto_needs_no_masks(ask, features, config):
    response, [request] = await ask(chat_body(), features=features, **config)
    assert (response.status_code, request.guidance) == (200, None)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"strict": True}, "tools"),
        ({"parallel_tool_calls": False}, "tools"),
    ],
)
async def test_requirements_need_masks(ask, fields, name):
    response, _ = await ask(chat_body(**fields), features=())
    text = f"`{name}` is not supported by the backend `fake`: leave it out"
    assert response.status_code == 422
    assert response.json()["error"]["message"] == f"Input validation error: {text}"
    response, _ = await ask(chat_body(**fields), disable_grammar_support=True)
    assert response.json()["error"]["message"] == "Input validation error: grammar is not supported"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat_body(tool_choice="required")),
        (
            RESPONSES,
            {
                "input": "hi",
                "max_output_tokens": 4,
                "tools": [
                    {"type": "function", "name": "f", "description": "d", "parameters": SCHEMA}
                ],
                "tool_choice": "required",
            },
        ),
        (
            MESSAGES,
            {
                "messages": [HI],
                "max_tokens": 4,
                "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}],
                "tool_choice": {"type": "any"},
            },
        ),
    ],
)
async def test_all_protocols_have_the_same_guidance(ask, path, body):
    response, [request] = await ask(body, path=path)
    _, [expected] = await ask(chat_body(tool_choice="required"))
    assert response.status_code == 200, response.text
    assert request.guidance == expected.guidance
    assert request.prompt_token_ids == expected.prompt_token_ids


async def test_hundreds_of_tools_have_a_grammar_or_a_clear_error(ask):
    tools = [
        {"type": "function", "function": {"name": f"f{number}", "parameters": SCHEMA}}
        for number in range(200)
    ]
    limits = {"max_total_tokens": 100_000, "max_input_tokens": 99_000}
    body = {"messages": [HI], "max_tokens": 4, "tools": tools}
    response, [request] = await ask(body, **limits)
    assert response.status_code == 200, response.text
    assert request.guidance is not None
    response, requests = await ask(body | {"tool_choice": "required"}, **limits)
    if response.status_code != 200:
        message = response.json()["error"]["message"]
        assert (response.status_code, requests) == (422, [])
        assert message.startswith("Input validation error: `tool_choice` is not valid: ")
