"""`/v1/completions` and `/v1/chat/completions`: OpenAI's schemas and TGI's errors."""

import pytest

from tests.core.server.fake_engine import FakeEngine
from tests.stream_checks import openai_chunks
from tgi.scheduler.records import SequenceOutput
from tgi.types import FinishReason

PROMPT = "The quick brown fox"
MESSAGES = [{"role": "user", "content": PROMPT}]
COMPLETION = ("/v1/completions", {"prompt": PROMPT, "max_tokens": 3, "temperature": 0})
CHAT = ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 3, "temperature": 0})
ROUTES = pytest.mark.parametrize(("path", "body"), [COMPLETION, CHAT], ids=["completions", "chat"])


def text_of(chunk):
    return "".join(
        choice.get("text") or choice.get("delta", {}).get("content", "")
        for choice in chunk["choices"]
    )


async def test_a_completion(make_client):
    engine = FakeEngine()
    async with make_client(engine) as client:
        response = await client.post(COMPLETION[0], json=COMPLETION[1])
    parsed, num_prompt = response.json(), len(engine.requests[0].prompt_token_ids)
    assert parsed["object"] == "text_completion"
    assert parsed["model"] == "tiny"
    assert parsed["system_fingerprint"] == "4.0.0-native"
    [choice] = parsed["choices"]
    assert (choice["index"], choice["logprobs"], choice["finish_reason"]) == (0, None, "length")
    assert choice["text"]
    assert parsed["usage"] == {
        "prompt_tokens": num_prompt,
        "completion_tokens": 3,
        "total_tokens": num_prompt + 3,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert "x-compute-time" not in response.headers
    assert response.headers["x-generated-tokens"] == "3"


async def test_a_chat_completion(make_client, tokenizer):
    engine = FakeEngine()
    async with make_client(engine) as client:
        response = await client.post(CHAT[0], json=CHAT[1])
    parsed = response.json()
    assert parsed["object"] == "chat.completion"
    [choice] = parsed["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert choice["finish_reason"] == "length"
    rendered = f"user: {PROMPT}\nassistant: "
    assert (
        engine.requests[0].prompt_token_ids
        == tokenizer.encode(rendered, add_special_tokens=False).ids
    )
    assert response.headers["x-compute-characters"] == str(len(rendered))


@ROUTES
async def test_ids_are_unique_and_models_echoed(make_client, path, body):
    async with make_client() as client:
        first = (await client.post(path, json=body | {"model": "other"})).json()
        second = (await client.post(path, json=body | {"model": "tgi"})).json()
    assert first["id"] != second["id"]
    assert (first["model"], second["model"]) == ("other", "tiny")


@ROUTES
async def test_a_stream_has_a_chunk_per_token_and_ends(make_client, path, body):
    async with make_client() as client:
        whole = (await client.post(path, json=body)).json()["choices"][0]
        found = openai_chunks((await client.post(path, json=body | {"stream": True})).text)
    assert [chunk["choices"][0]["finish_reason"] for chunk in found] == [None, None, "length"]
    assert len({chunk["id"] for chunk in found}) == 1
    assert [chunk["usage"] for chunk in found] == [None] * 3
    assert "".join(map(text_of, found)) == (whole.get("text") or whole["message"]["content"])


@ROUTES
async def test_usage_is_a_separate_chunk(make_client, path, body):
    async with make_client() as client:
        requested = {"stream": True, "stream_options": {"include_usage": True}}
        found = openai_chunks((await client.post(path, json=body | requested)).text)
    assert [len(chunk["choices"]) for chunk in found] == [1, 1, 1, 0]
    assert found[-1]["usage"]["completion_tokens"] == 3


@ROUTES
@pytest.mark.parametrize("stop", ["quick", ["quick", "nothing"]])
@pytest.mark.parametrize("stream", [True, False])
async def test_the_text_excludes_the_stop_string(make_client, path, body, stop, stream):
    async with make_client() as client:
        response = await client.post(
            path, json=body | {"max_tokens": 30, "stop": stop, "stream": stream}
        )
    found = openai_chunks(response.text) if stream else [response.json()]
    choices = [choice for chunk in found for choice in chunk["choices"]]
    text = "".join(
        c.get("text") or (c.get("delta") or c.get("message") or {}).get("content", "")
        for c in choices
    )
    assert "quick" not in text
    assert "The" in text
    assert choices[-1]["finish_reason"] == "stop"


@ROUTES
@pytest.mark.parametrize("stream", [True, False])
async def test_eos_is_a_stop_without_text(make_client, tokenizer, path, body, stream):
    token = tokenizer.encode("fox", add_special_tokens=False).ids[0]
    outputs = [
        SequenceOutput(0, [token]),
        SequenceOutput(0, [tokenizer.eos_token_ids[0]], FinishReason.EOS_TOKEN),
    ]
    async with make_client(FakeEngine(outputs)) as client:
        response = await client.post(path, json=body | {"stream": stream})
    found = openai_chunks(response.text) if stream else [response.json()]
    choices = [choice for chunk in found for choice in chunk["choices"]]
    text = "".join(
        c.get("text") or (c.get("delta") or c.get("message") or {}).get("content", "")
        for c in choices
    )
    assert text == tokenizer.decode([token], skip_special_tokens=True)
    assert choices[-1]["finish_reason"] == "stop"


@ROUTES
async def test_a_special_token_that_is_no_end_has_no_text(make_client, tokenizer, path, body):
    token = tokenizer.encode("fox", add_special_tokens=False).ids[0]
    outputs = [SequenceOutput(0, [tokenizer.eos_token_ids[0], token], FinishReason.LENGTH)]
    async with make_client(FakeEngine(outputs)) as client:
        found = openai_chunks(
            (await client.post(path, json=body | {"stream": True, "ignore_eos": True})).text
        )
    assert [text_of(chunk) for chunk in found] == [
        "",
        tokenizer.decode([token], skip_special_tokens=True),
    ]


@ROUTES
async def test_sampling_is_on_unless_the_temperature_is_zero(make_client, path, body):
    engine = FakeEngine()
    async with make_client(engine) as client:
        await client.post(path, json=body)
        await client.post(path, json=body | {"temperature": None, "top_p": 1, "seed": 5})
        await client.post(path, json=body | {"temperature": 0.5, "top_p": 0.5})
    assert [request.sampling.greedy for request in engine.requests] == [True, False, False]
    assert [request.sampling.top_p for request in engine.requests] == [1.0, 1.0, 0.5]
    assert engine.requests[1].seed == 5


@ROUTES
async def test_penalties_have_openais_meaning(make_client, path, body):
    engine = FakeEngine(sampling=("frequency_penalty", "presence_penalty"))
    async with make_client(engine) as client:
        await client.post(path, json=body | {"frequency_penalty": 0.5, "presence_penalty": -2})
        rejected = await client.post(path, json=body | {"presence_penalty": 2.5})
    [request] = engine.requests
    assert (request.sampling.frequency_penalty, request.sampling.presence_penalty) == (0.5, -2.0)
    assert request.sampling.relative_frequency_penalty == 0.0
    assert (
        rejected.json()["error"]["message"]
        == "Input validation error: `presence_penalty` must be >= -2.0 and <= 2.0. Given: 2.5"
    )


@ROUTES
async def test_an_error_in_a_stream_is_followed_by_done(make_client, tokenizer, path, body):
    outputs = [
        SequenceOutput(0, [tokenizer.encode("fox").ids[-1]]),
        SequenceOutput(0, error="out of luck"),
    ]
    async with make_client(FakeEngine(outputs)) as client:
        response = await client.post(path, json=body | {"stream": True})
    assert response.status_code == 200
    message = "Request failed during generation: out of luck"
    details = {"message": message, "type": "server_error", "param": None, "code": None}
    assert openai_chunks(response.text)[-1] == {"error": details, "error_type": "generation"}


@ROUTES
@pytest.mark.parametrize(
    "fields",
    [
        {"n": 3},
        {"n": 0},
        {"logit_bias": {"5": 1}},
        {"logit_bias": [1.0]},
        {"presence_penalty": 1.0},
    ],
)
async def test_an_unsupported_field_is_rejected_by_name(make_client, path, body, fields):
    async with make_client() as client:
        response = await client.post(path, json=body | fields)
    assert response.status_code == 422
    assert response.json()["error_type"] == "validation"
    assert f"`{next(iter(fields))}`" in response.json()["error"]["message"]
    assert response.json()["error"]["param"] == next(iter(fields))


@pytest.mark.parametrize(
    ("fields", "error_type"),
    [
        ({"suffix": "x"}, "suffix not supported"),
        ({"prompt": list("abcde")}, "batch size exceeded"),
        ({"echo": True, "logprobs": 1}, "validation"),
        ({"best_of": 2}, "validation"),
        ({"best_of": 1, "n": 2}, "validation"),
    ],
)
async def test_completions_reject(make_client, fields, error_type):
    async with make_client() as client:
        response = await client.post(
            "/v1/completions", json=COMPLETION[1] | fields | {"stream": True}
        )
    assert response.status_code == 422
    assert response.json()["error_type"] == error_type


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"top_logprobs": 2},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
            ]
        },
    ],
)
async def test_chat_rejects(make_client, fields):
    async with make_client() as client:
        response = await client.post("/v1/chat/completions", json=CHAT[1] | fields)
    assert response.status_code == 422
    assert any(
        words in response.json()["error"]["message"]
        for words in ("not supported", "only text", "requires `logprobs`")
    )


async def test_null_means_absent(make_client):
    nothing = dict.fromkeys(
        [
            "stop",
            "seed",
            "n",
            "tools",
            "stream_options",
            "logit_bias",
            "stream",
            "top_p",
            "logprobs",
        ]
    )
    async with make_client() as client:
        assert (
            await client.post("/v1/chat/completions", json=CHAT[1] | nothing)
        ).status_code == 200


async def test_the_newer_name_of_the_limit_takes_precedence(make_client):
    async with make_client() as client:
        responses = [
            await client.post("/v1/chat/completions", json={"messages": MESSAGES} | limits)
            for limits in (
                {"max_tokens": 3, "max_completion_tokens": 4},
                {"max_tokens": 4, "max_completion_tokens": 4},
                {"max_completion_tokens": 4},
                {"max_tokens": 4, "max_completion_tokens": None},
            )
        ]
    assert [r.json()["usage"]["completion_tokens"] for r in responses] == [4] * 4


async def test_an_array_may_contain_a_single_prompt(make_client):
    async with make_client() as client:
        assert (
            await client.post("/v1/completions", json=COMPLETION[1] | {"prompt": [PROMPT]})
        ).status_code == 200


@pytest.mark.parametrize(
    "content", [5, None, [5], [{"type": "text"}], [{"type": "song"}], {"text": "a"}]
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat_tokenize"])
async def test_a_message_of_an_unknown_type_is_rejected(make_client, path, content):
    messages = [*MESSAGES, {"role": "user", "content": content}]
    async with make_client() as client:
        response = await client.post(path, json=CHAT[1] | {"messages": messages})
    is_native = path == "/chat_tokenize"
    kind = "text/plain; charset=utf-8" if is_native else "application/json"
    assert (response.status_code, response.headers["content-type"]) == (422, kind)
    assert (response.text if is_native else response.json()["error"]["message"]) == (
        "Failed to deserialize the JSON body into the target type: messages[1]: data did not match"
        " any variant of untagged enum MessageBody"
    )
