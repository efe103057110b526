"""Messages of earlier turns, as clients replay them: roles, empty messages, refusals, reasoning and
tool calls.
"""

import json

import pytest

from tests.core.server.fake_engine import FakeEngine

HI = {"role": "user", "content": "hi"}
# Joins strings, so that a missing or null content is an error.
LINES = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
DEVELOPER = LINES + "{% if messages[0].role == 'developer' %}developer{% endif %}"
CALLS = (
    "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
    "{% endfor %}{{ m.content }}\n{% endfor %}"
)
REASONING = (
    "{% for m in messages %}{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>"
    "{% endif %}{{ m.content }}\n{% endfor %}"
)
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}


async def prompt_of(make_client, template, path, **body):
    """The prompt that the route renders from a body. The status must be 200."""
    engine = FakeEngine()
    limits = {"max_total_tokens": 600, "max_input_tokens": 500}
    async with make_client(engine, chat_template=template, **limits) as client:
        response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    if path == "/chat_tokenize":
        return response.json()["templated_text"]
    [request] = engine.requests
    return request.prompt_token_ids


@pytest.fixture
def chat(make_client, make_template):
    """A function that returns the prompt of a chat."""

    async def render(source, *messages):
        template = make_template(source)
        return await prompt_of(make_client, template, "/chat_tokenize", messages=messages)

    return render


@pytest.fixture
def prompt(make_client, make_template, tokenizer):
    """A function that returns the prompt of a generation route."""

    async def render(path, **body):
        ids = await prompt_of(make_client, make_template(REASONING), path, **body)
        return tokenizer.decode(ids)

    return render


@pytest.mark.parametrize(("source", "shown"), [(LINES, "system"), (DEVELOPER, "developer")])
async def test_a_developer_gets_a_name_that_the_template_knows(chat, source, shown):
    found = await chat(source, {"role": "developer", "content": "Be brief."}, HI)
    assert found.startswith(f"{shown}: Be brief.\nuser: hi\n")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_all_routes_rename_the_developer(make_client, make_template, tokenizer, path):
    name = "input" if path == "/v1/responses" else "messages"
    body = {name: [{"role": "developer", "content": "x"}, HI]}
    ids = await prompt_of(make_client, make_template(LINES), path, **body)
    assert tokenizer.decode(ids) == "system: x\nuser: hi\n"


@pytest.mark.parametrize(
    "message",
    [
        {"content": None},
        {},
        {"content": ""},
        {"content": []},
        {"content": None, "tool_calls": []},
    ],
)
async def test_a_message_without_content_has_an_empty_text(chat, message):
    found = await chat(LINES, HI, {"role": "assistant", **message}, HI)
    assert found == "user: hi\nassistant: \nuser: hi\n"


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "refusal": "I must not"},
        {"refusal": "I must not"},
        {"content": [{"type": "refusal", "refusal": "I must not"}]},
    ],
)
async def test_a_refusal_is_a_text(chat, message):
    found = await chat(LINES, HI, {"role": "assistant", **message}, HI)
    assert found == "user: hi\nassistant: I must not\nuser: hi\n"


@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": ""}])
async def test_tool_calls_are_text_unless_the_template_reads_them(chat, content):
    calls = {"role": "assistant", "tool_calls": [CALL], **content}
    function = {"description": None, "name": "f", "arguments": '{"a":1}'}
    text = json.dumps(
        [{"id": "call_1", "type": "function", "function": function}], separators=(",", ":")
    )
    assert await chat(LINES, HI, calls, HI) == f"user: hi\nassistant: {text}\nuser: hi\n"
    assert await chat(CALLS, HI, calls, HI) == "hi\nf\nhi\n"
    with_text = calls | {"content": "yes"}
    assert await chat(LINES, HI, with_text, HI) == "user: hi\nassistant: yes\nuser: hi\n"


async def test_reasoning_reaches_templates_that_read_it(chat):
    message = {"role": "assistant", "content": "yo", "reasoning_content": "hm"}
    assert await chat(REASONING, HI, message, HI) == "hi\n<think>hm</think>yo\nhi\n"
    assert await chat(LINES, HI, message, HI) == "user: hi\nassistant: yo\nuser: hi\n"


THOUGHTS = [
    {"type": "thinking", "thinking": "hm", "signature": "x"},
    {"type": "redacted_thinking", "data": "x"},
    {"type": "text", "text": "yo"},
]


async def test_thinking_blocks_are_reasoning(prompt):
    found = await prompt(
        "/v1/messages",
        max_tokens=1,
        messages=[HI, {"role": "assistant", "content": THOUGHTS}, HI],
    )
    assert found == "hi\n<think>hm</think>yo\nhi\n"


@pytest.mark.parametrize(
    ("item", "shown"),
    [
        ({"content": [{"type": "reasoning_text", "text": "hm"}], "summary": []}, "hm"),
        ({"summary": [{"type": "summary_text", "text": "hm"}]}, "hm"),
        ({"summary": [], "encrypted_content": "x"}, ""),
    ],
)
async def test_reasoning_items_belong_to_the_next_message(prompt, item, shown):
    message = {
        "type": "message",
        "role": "assistant",
        "id": "msg_1",
        "status": "completed",
        "content": [
            {"type": "output_text", "text": "y", "annotations": []},
            {"type": "refusal", "refusal": "o"},
        ],
    }
    found = await prompt(
        "/v1/responses",
        max_output_tokens=1,
        input=[HI, {"type": "reasoning", "id": "rs_1", **item}, message, HI],
    )
    thought = f"<think>{shown}</think>" if shown else ""
    assert found == f"hi\n{thought}yo\nhi\n"


async def test_a_reference_to_a_stored_item_is_rejected_with_the_remedy(make_client):
    body = {"input": [HI, {"type": "item_reference", "id": "msg_1"}]}
    async with make_client() as client:
        response = await client.post("/v1/responses", json=body)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["param"] == "input[1]"
    assert '`"store": false`' in error["message"]


@pytest.mark.parametrize(
    ("fields", "is_accepted"),
    [
        ({"thinking": {"type": "adaptive"}}, True),
        ({"thinking": {"type": "disabled"}}, True),
        ({"thinking": None, "context_management": None, "output_config": {}}, True),
        ({"thinking": {"type": "later"}}, False),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, False),
        ({"output_format": {"type": "json_schema"}}, False),
        ({"mcp_servers": [{"name": "a"}]}, False),
        ({"container": "c"}, False),
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_fields_that_would_change_the_message_are_not_ignored(
    make_client, path, fields, is_accepted
):
    body = {"messages": [HI], **({} if path.endswith("count_tokens") else {"max_tokens": 1})}
    async with make_client() as client:
        response = await client.post(path, json=body | fields)
    assert (response.status_code == 200) == is_accepted
    if not is_accepted:
        assert f"`{next(iter(fields))}`" in response.json()["error"]["message"]
