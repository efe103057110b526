"""`/v1/messages` and its token count: schemas, events and statuses."""

import pytest

from tests.core.server.fake_engine import FakeEngine
from tests.stream_checks import messages_events
from tgi.scheduler.records import SequenceOutput
from tgi.types import FinishReason

MESSAGES = [{"role": "user", "content": "The quick brown fox"}]
BODY = {"model": "tgi", "messages": MESSAGES, "max_tokens": 3, "temperature": 0}


async def test_a_message(make_client):
    engine = FakeEngine()
    async with make_client(engine) as client:
        parsed = (await client.post("/v1/messages", json=BODY)).json()
    assert list(parsed) == [
        "id",
        "type",
        "role",
        "model",
        "content",
        "stop_reason",
        "stop_sequence",
        "usage",
    ]
    assert (parsed["type"], parsed["role"], parsed["model"]) == ("message", "assistant", "tiny")
    assert [block["type"] for block in parsed["content"]] == ["text"]
    assert (parsed["stop_reason"], parsed["stop_sequence"]) == ("max_tokens", None)
    assert parsed["usage"] == {
        "input_tokens": len(engine.requests[0].prompt_token_ids),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 3,
    }


@pytest.mark.parametrize("stream", [True, False])
async def test_the_stop_sequence_is_reported(make_client, stream):
    async with make_client() as client:
        response = await client.post(
            "/v1/messages",
            json=BODY | {"max_tokens": 30, "stop_sequences": ["no", "quick"], "stream": stream},
        )
    parsed = messages_events(response.text)[-2]["delta"] if stream else response.json()
    assert (parsed["stop_reason"], parsed["stop_sequence"]) == ("stop_sequence", "quick")


async def test_eos_ends_the_turn(make_client, tokenizer):
    outputs = [SequenceOutput(0, [tokenizer.eos_token_ids[0]], FinishReason.EOS_TOKEN)]
    async with make_client(FakeEngine(outputs)) as client:
        parsed = (await client.post("/v1/messages", json=BODY)).json()
    assert (parsed["stop_reason"], parsed["content"]) == (
        "end_turn",
        [{"type": "text", "text": ""}],
    )


async def test_the_events_of_a_stream(make_client):
    engine = FakeEngine()
    async with make_client(engine) as client:
        whole = (await client.post("/v1/messages", json=BODY)).json()
        parsed = messages_events(
            (await client.post("/v1/messages", json=BODY | {"stream": True})).text
        )
    names = [event["type"] for event in parsed]
    deltas = [event["delta"]["text"] for event in parsed if event["type"] == "content_block_delta"]
    closing = ["content_block_stop", "message_delta", "message_stop"]
    assert names == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * len(deltas),
        *closing,
    ]
    assert "".join(deltas) == whole["content"][0]["text"]
    assert parsed[0]["message"]["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    assert parsed[-2]["usage"] == whole["usage"]
    assert parsed[-2]["usage"]["output_tokens"] == 3


async def test_the_token_count_equals_the_usage_of_a_generation(make_client):
    body = {"messages": MESSAGES, "system": [{"type": "text", "text": "be brief"}]}
    engine = FakeEngine()
    async with make_client(engine) as client:
        counted = (await client.post("/v1/messages/count_tokens", json=body)).json()
        assert engine.requests == []
        used = (await client.post("/v1/messages", json=body | {"max_tokens": 1})).json()["usage"]
    assert counted == {"input_tokens": used["input_tokens"]}


async def test_a_failure_during_generation_ends_the_stream(make_client, tokenizer):
    outputs = [
        SequenceOutput(0, [tokenizer.encode("fox").ids[-1]]),
        SequenceOutput(0, error="out of luck"),
    ]
    async with make_client(FakeEngine(outputs)) as client:
        parsed = messages_events(
            (await client.post("/v1/messages", json=BODY | {"stream": True})).text
        )
    message = "Request failed during generation: out of luck"
    assert parsed[-1] == {"type": "error", "error": {"type": "api_error", "message": message}}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_tokens": None}, "expected u32"),
        ({"max_tokens": 0}, "strictly positive"),
        (
            {"messages": [{"role": "system", "content": "x"}]},
            "`messages[0].role` must be one of user, assistant",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "only text is supported in `messages[0].content`",
        ),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_invalid_request_is_an_error_in_anthropics_format(
    make_client, fields, words, stream
):
    async with make_client() as client:
        response = await client.post("/v1/messages", json=BODY | fields | {"stream": stream})
    assert response.status_code == 400
    parsed = response.json()
    assert (parsed["type"], parsed["error"]["type"]) == ("error", "invalid_request_error")
    assert words in parsed["error"]["message"]


async def test_other_errors_are_in_anthropics_format(make_client):
    async with make_client(max_concurrent_requests=0) as client:
        overloaded = await client.post("/v1/messages", json=BODY)
    async with make_client(payload_limit=10) as client:
        large = await client.post("/v1/messages", json=BODY)
    assert (overloaded.status_code, overloaded.json()["error"]["type"]) == (429, "rate_limit_error")
    assert overloaded.headers["retry-after"] == "1"
    assert "retry-after" not in large.headers
    assert (large.status_code, large.json()["error"]["type"]) == (413, "request_too_large")


async def test_the_key_is_accepted_in_anthropics_header(make_client):
    async with make_client(api_key="k") as client:
        statuses = [
            (await client.post("/v1/messages", json=BODY, headers=headers)).status_code
            for headers in (
                {},
                {"x-api-key": "k"},
                {"authorization": "Bearer k"},
                {"x-api-key": "K"},
            )
        ]
        elsewhere = await client.post("/generate", json={"inputs": "a"}, headers={"x-api-key": "k"})
    assert statuses == [401, 200, 200, 401]
    assert elsewhere.status_code == 401
