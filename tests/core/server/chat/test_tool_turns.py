"""Earlier tool calls and their results in the prompt, for all chat protocols."""

import hashlib
import json

import pytest

from tests.core.server.chat.conftest import HI
from tgi.errors import ValidationError

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
# Prints the messages as JSON. The word `tool_calls` shows that the template reads calls.
DUMP = "{# tool_calls #}{% for m in messages %}{{ m | tojson }}\n{% endfor %}"
ARGUMENTS = {"b": "x", "a": 1}
TEXT = json.dumps(ARGUMENTS)
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": TEXT}}
TURN = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "42"}
RENDERED_CALL = CALL | {"function": {"name": "f", "arguments": ARGUMENTS}}
RENDERED_RESULT = RESULT | {"name": "f"}


async def messages_of(convert, path, source=DUMP, **fields):
    request = await convert(path, source, **fields)
    return [json.loads(line) for line in request.prompt.splitlines()]


TURNS = {
    CHAT: {"messages": [HI, TURN, RESULT]},
    RESPONSES: {
        "input": [
            HI,
            {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": TEXT},
            {"type": "function_call_output", "call_id": "call_1", "output": "42"},
        ]
    },
    MESSAGES: {
        "messages": [
            HI,
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "call_1", "name": "f", "input": ARGUMENTS}],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "42"}],
            },
        ]
    },
}


@pytest.mark.parametrize("path", TURNS)
async def test_calls_and_results_reach_the_template(convert, path):
    found = await messages_of(convert, path, **TURNS[path])
    assert found == [
        HI,
        {"role": "assistant", "content": "", "tool_calls": [RENDERED_CALL]},
        RENDERED_RESULT,
    ]
    assert list(found[1]["tool_calls"][0]["function"]["arguments"]) == ["b", "a"]


@pytest.mark.parametrize("path", TURNS)
async def test_the_content_is_null_if_the_template_tests_it(convert, path):
    source = DUMP + "{% if messages[0].content is none %}{% endif %}"
    found = await messages_of(convert, path, source, **TURNS[path])
    assert found[1]["content"] is None


@pytest.mark.parametrize("path", TURNS)
async def test_arguments_are_a_text_if_the_template_joins_them(convert, path):
    source = (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}"
        "{{ 'call ' + c['function']['arguments'] + '.' }}{% endfor %}{% endfor %}"
    )
    request = await convert(path, source, **TURNS[path])
    assert request.prompt == 'call {"b":"x","a":1}.'


@pytest.mark.parametrize("path", TURNS)
async def test_ids_are_short_if_the_template_requires_it(convert, path):
    source = (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{% if c.id|length != 9 %}"
        "{{ raise_exception('length 9') }}{% endif %}{{ c.id }} {% endfor %}"
        "{% if m.role == 'tool' %}{{ m.tool_call_id }}{% endif %}{% endfor %}"
    )
    request = await convert(path, source, **TURNS[path])
    short = hashlib.sha256(b"call_1").hexdigest()[:9]
    assert request.prompt == f"{short} {short}"


async def test_a_short_id_is_unchanged(convert):
    source = (
        "{% for c in messages[1].tool_calls %}{% if c.id|length != 9 %}{% endif %}{{ c.id }}"
        "{% endfor %}"
    )
    turn = TURN | {"tool_calls": [CALL | {"id": "aB3456789"}]}
    request = await convert(CHAT, source, messages=[HI, turn, HI])
    assert request.prompt == "aB3456789"


@pytest.mark.parametrize("arguments", ["", None, {}])
async def test_missing_arguments_are_an_empty_object(convert, arguments):
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    found = await messages_of(convert, CHAT, messages=[TURN | {"tool_calls": [call]}])
    assert found[0]["tool_calls"][0]["function"]["arguments"] == {}


@pytest.mark.parametrize("arguments", ["{", "[1]", "1", "[" * 5000])
async def test_arguments_that_are_no_object_are_rejected(convert, arguments):
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    with pytest.raises(ValidationError) as caught:
        await convert(CHAT, DUMP, messages=[HI, TURN | {"tool_calls": [call]}])
    field = "`messages[1].tool_calls[0].function.arguments`"
    assert str(caught.value).startswith(f"{field} must be the JSON text of an object. Given: `")


async def test_items_of_one_turn_are_one_message(convert):
    items = [
        HI,
        {"type": "reasoning", "summary": [], "content": [{"type": "text", "text": "hm"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "I call."}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "reasoning", "summary": [], "content": [{"type": "text", "text": "mh"}]},
        {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "a"},
        {
            "type": "function_call_output",
            "call_id": "2",
            "output": [{"type": "input_text", "text": "b"}],
        },
        {"type": "reasoning", "summary": [], "content": [{"type": "text", "text": "ho"}]},
        {"type": "function_call", "call_id": "3", "name": "h", "arguments": "{}"},
    ]
    found = await messages_of(convert, RESPONSES, input=items)
    assert [message["role"] for message in found] == [
        *("user", "assistant", "tool", "tool", "assistant"),
    ]
    assert [call["id"] for call in found[1]["tool_calls"]] == ["1", "2"]
    assert (found[1]["content"], found[1]["reasoning_content"]) == ("I call.", "hmmh")
    assert [message["name"] for message in found[2:4]] == ["f", "g"]
    assert [message["content"] for message in found[2:4]] == ["a", "b"]
    assert found[4]["reasoning_content"] == "ho"


async def test_results_precede_the_text_of_the_user(convert):
    content = [
        {"type": "text", "text": "Thanks."},
        {
            "type": "tool_result",
            "tool_use_id": "1",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        },
        {"type": "tool_result", "tool_use_id": "2", "content": "no", "is_error": True},
        {"type": "tool_result", "tool_use_id": "3"},
    ]
    found = await messages_of(convert, MESSAGES, messages=[{"role": "user", "content": content}])
    assert [(message["role"], message["content"]) for message in found] == [
        ("tool", "ab"),
        ("tool", "Error: no"),
        ("tool", ""),
        ("user", "Thanks."),
    ]


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        (
            MESSAGES,
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "1"}]}]},
            "a block of type `tool_use` in `messages[0].content` must have an `id`, a `name`",
        ),
        (
            MESSAGES,
            {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
            "a block of type `tool_result` in `messages[0].content` must have a `tool_use_id`",
        ),
        (
            MESSAGES,
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "tool_result",
                                "tool_use_id": "1",
                                "content": [{"type": "image"}],
                            }
                        ],
                    }
                ]
            },
            "only text is supported in the result of a tool in `messages[0].content`",
        ),
        (
            MESSAGES,
            {"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "1"}]}]},
            "only text is supported in `messages[0].content`",
        ),
        (
            RESPONSES,
            {"input": [{"type": "function_call", "name": "f"}]},
            "`input[0]` of type `function_call` must have a `name` and a `call_id`",
        ),
        (
            RESPONSES,
            {"input": [{"type": "function_call_output", "call_id": "1", "output": 1}]},
            "`input[0].output` must be a string or a list of parts",
        ),
        (
            RESPONSES,
            {
                "input": [
                    {
                        "type": "function_call_output",
                        "call_id": "1",
                        "output": [{"type": "input_image"}],
                    }
                ]
            },
            "only text is supported in `input[0].output`",
        ),
    ],
)
async def test_incomplete_calls_and_results_are_rejected(convert, path, fields, message):
    with pytest.raises(ValidationError) as caught:
        await convert(path, DUMP, **fields)
    assert str(caught.value).startswith(message)


async def test_calls_are_rendered_by_a_template_that_tests_for_null(convert):
    source = (
        "{% for m in messages %}{% if m['role'] == 'assistant' and m['content'] is none %}"
        "{% for c in m['tool_calls'] %}{{ 'call ' + c['function']['arguments'] }}{% endfor %}"
        "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    )
    request = await convert(CHAT, source, messages=[HI, TURN, RESULT])
    assert request.prompt == 'hicall {"b":"x","a":1}42'
