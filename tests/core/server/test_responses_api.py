"""`/v1/responses`: schemas, events, and errors for unsupported fields."""

import pytest

from tests.core.server.fake_engine import FakeEngine
from tests.stream_checks import responses_events
from tgi.scheduler.records import SequenceOutput
from tgi.types import FinishReason

BODY = {"input": "The quick brown fox", "max_output_tokens": 3, "temperature": 0}


def ended(tokenizer):
    token = tokenizer.encode("fox", add_special_tokens=False).ids[0]
    outputs = [SequenceOutput(0, [token, tokenizer.eos_token_ids[0]], FinishReason.EOS_TOKEN)]
    return FakeEngine(outputs), tokenizer.decode([token])


async def test_a_response_that_reaches_the_length_limit(make_client):
    engine = FakeEngine()
    async with make_client(engine) as client:
        response = await client.post("/v1/responses", json=BODY)
    parsed, num_prompt = response.json(), len(engine.requests[0].prompt_token_ids)
    assert (parsed["object"], parsed["status"], parsed["store"]) == (
        "response",
        "incomplete",
        False,
    )
    assert parsed["incomplete_details"] == {"reason": "max_output_tokens"}
    [message] = parsed["output"]
    assert (message["type"], message["role"], message["status"]) == (
        "message",
        "assistant",
        "incomplete",
    )
    assert [part["type"] for part in message["content"]] == ["output_text"]
    assert (parsed["usage"]["input_tokens"], parsed["usage"]["output_tokens"]) == (num_prompt, 3)
    assert parsed["usage"]["total_tokens"] == num_prompt + 3
    assert response.headers["x-generated-tokens"] == "3"


async def test_a_complete_response(make_client, tokenizer):
    engine, text = ended(tokenizer)
    async with make_client(engine) as client:
        parsed = (await client.post("/v1/responses", json=BODY)).json()
    assert (parsed["status"], parsed["incomplete_details"]) == ("completed", None)
    assert parsed["output"][0]["content"][0]["text"] == text


async def test_a_conversation_becomes_a_prompt(make_client, tokenizer):
    engine = FakeEngine()
    items = [
        {"role": "user", "content": "fox"},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "dog"}],
        },
        {
            "role": "developer",
            "content": [
                {"type": "input_text", "text": "qu"},
                {"type": "input_text", "text": "ick"},
            ],
        },
    ]
    async with make_client(engine) as client:
        response = await client.post(
            "/v1/responses", json={"input": items, "instructions": "be", "max_output_tokens": 1}
        )
    assert response.json()["instructions"] == "be"
    prompt = "system: be\nuser: fox\nassistant: dog\nsystem: quick\nassistant: "
    assert (
        engine.requests[0].prompt_token_ids
        == tokenizer.encode(prompt, add_special_tokens=False).ids
    )


@pytest.mark.parametrize("is_cut", [True, False])
async def test_the_events_of_a_stream(make_client, tokenizer, is_cut):
    engine = FakeEngine() if is_cut else ended(tokenizer)[0]
    async with make_client(engine) as client:
        stream = await client.post("/v1/responses", json=BODY | {"stream": True})
    parsed = responses_events(stream.text)
    names = [event["type"].removeprefix("response.") for event in parsed]
    deltas = [event["delta"] for event in parsed if event["type"] == "response.output_text.delta"]
    opening = ["created", "in_progress", "output_item.added", "content_part.added"]
    closing = [
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "incomplete" if is_cut else "completed",
    ]
    assert names == [*opening, *["output_text.delta"] * len(deltas), *closing]
    response = parsed[-1]["response"]
    assert "".join(deltas) == response["output"][0]["content"][0]["text"] == parsed[-4]["text"]
    assert {response["id"], parsed[0]["response"]["id"]} == {response["id"]}
    assert parsed[-2]["item"] == response["output"][0]


async def test_a_failure_during_generation_ends_the_stream(make_client, tokenizer):
    outputs = [
        SequenceOutput(0, [tokenizer.encode("fox").ids[-1]]),
        SequenceOutput(0, error="out of luck"),
    ]
    async with make_client(FakeEngine(outputs)) as client:
        parsed = responses_events(
            (await client.post("/v1/responses", json=BODY | {"stream": True})).text
        )
    assert parsed[-1]["type"] == "response.failed"
    assert (
        parsed[-1]["response"]["error"]["message"]
        == "Request failed during generation: out of luck"
    )


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        (
            {"previous_response_id": "r"},
            400,
            "`previous_response_id` is not supported, because this server does not store responses",
        ),
        ({"conversation": "c"}, 400, "`conversation` is not supported"),
        ({"tools": [{"type": "function"}]}, 422, "`tools[0].name` must have 1 to 128"),
        ({"text": {"format": {"type": "json_schema"}}}, 422, "`text.format` has no schema"),
        ({"background": True}, 422, "`background` is not supported"),
        ({"truncation": "auto"}, 422, "`truncation` is not supported"),
        (
            {"input": [{"type": "function_call_output"}]},
            422,
            "`input[0]` of type `function_call_output` must have a `call_id`",
        ),
        (
            {"input": [{"type": "custom_tool_call"}]},
            422,
            "`input[0]` of type `custom_tool_call` is not supported",
        ),
        ({"input": [{"role": "tool", "content": "x"}]}, 422, "`input[0].role` must be one of"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            422,
            "only text is supported in `input[0].content`",
        ),
        ({"max_output_tokens": 0}, 422, "`max_output_tokens` must be strictly positive"),
    ],
)
async def test_unsupported_fields_are_rejected_before_the_stream(
    make_client, stream, fields, status, words
):
    async with make_client() as client:
        response = await client.post("/v1/responses", json=BODY | fields | {"stream": stream})
    assert response.status_code == status
    assert words in response.json()["error"]["message"]


async def test_harmless_fields_are_accepted(make_client):
    harmless = {
        "store": True,
        "text": {"format": {"type": "text"}},
        "include": ["reasoning.encrypted_content"],
        "tools": [],
        "truncation": "disabled",
        "metadata": {"a": "b"},
    }
    async with make_client() as client:
        parsed = (await client.post("/v1/responses", json=BODY | harmless)).json()
    assert parsed["metadata"] == {"a": "b"}
    assert parsed["store"] is False
