"""Log probabilities of prompts and outputs on the OpenAI routes."""

import re

import pytest

from tests.core.server.fake_engine import FakeEngine
from tests.stream_checks import openai_chunks, responses_events
from tgi.scheduler.records import SequenceOutput
from tgi.types import FinishReason

PROMPT = "The quick brown fox"
CHAT = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 3}


async def test_a_prompt_can_be_scored_without_generation(make_client):
    engine = FakeEngine()
    body = {"prompt": PROMPT, "max_tokens": 0, "temperature": 0, "echo": True, "logprobs": 1}
    async with make_client(engine, enable_prefill_logprobs=True) as client:
        parsed = (await client.post("/v1/completions", json=body)).json()
    [choice] = parsed["choices"]
    num_prompt = len(engine.requests[0].prompt_token_ids)
    assert choice["text"] == PROMPT
    assert choice["logprobs"]["token_logprobs"] == [None, *[-0.5] * (num_prompt - 1)]
    assert {len(column) for column in choice["logprobs"].values()} == {num_prompt}
    assert parsed["usage"]["completion_tokens"] == 0


async def test_completion_logprobs_are_four_lists_of_equal_length(make_client):
    engine = FakeEngine()
    body = {"prompt": PROMPT, "max_tokens": 3, "temperature": 0, "logprobs": 2}
    async with make_client(engine, enable_prefill_logprobs=True) as client:
        [choice] = (await client.post("/v1/completions", json=body)).json()["choices"]
        chunks = openai_chunks(
            (await client.post("/v1/completions", json=body | {"stream": True})).text
        )
        [echoed] = (await client.post("/v1/completions", json=body | {"echo": True})).json()[
            "choices"
        ]
    columns = choice["logprobs"]
    assert columns["token_logprobs"] == [-0.5] * 3
    assert "".join(columns["tokens"][1:]) in choice["text"]
    assert all(
        choice["text"][start:].startswith(piece)
        for start, piece in list(zip(columns["text_offset"], columns["tokens"], strict=True))[1:]
    )
    streamed = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [entry["text_offset"][0] for entry in streamed] == columns["text_offset"]
    assert [entry["tokens"][0] for entry in streamed] == columns["tokens"]
    assert echoed["logprobs"]["text_offset"][-3:] == [
        len(PROMPT) + offset for offset in columns["text_offset"]
    ]
    assert engine.requests[0].sampling.logprobs == "raw"
    assert engine.requests[0].sampling.top_n_tokens == 2


async def test_chat_logprobs_list_the_alternatives(make_client, tokenizer):
    engine = FakeEngine()
    async with make_client(engine) as client:
        [choice] = (
            await client.post(
                "/v1/chat/completions", json=CHAT | {"logprobs": True, "top_logprobs": 2}
            )
        ).json()["choices"]
        chunks = openai_chunks(
            (
                await client.post(
                    "/v1/chat/completions", json=CHAT | {"logprobs": True, "stream": True}
                )
            ).text
        )
        without = (await client.post("/v1/chat/completions", json=CHAT)).json()["choices"][0]
    content = choice["logprobs"]["content"]
    assert [entry["logprob"] for entry in content] == [-0.5] * 3
    assert [[top["logprob"] for top in entry["top_logprobs"]] for entry in content] == [
        [-0.5, -1.0]
    ] * 3
    assert (
        bytes(byte for entry in content for byte in entry["bytes"]).decode()
        == choice["message"]["content"]
    )
    assert [chunk["choices"][0]["logprobs"]["content"][0]["token"] for chunk in chunks] == [
        entry["token"] for entry in content
    ]
    assert without["logprobs"] is None
    assert [request.sampling.logprobs for request in engine.requests] == ["raw", "raw", "none"]


CHARACTER = "\U00012345"


@pytest.fixture
def parts(tokenizer):
    """The token ids of a character that the tokenizer splits into its bytes."""
    ids = tokenizer.encode(CHARACTER, add_special_tokens=False).ids
    assert len(ids) == len(CHARACTER.encode()), "the tokenizer must not know the character"
    return ids


def engine_with(*ids, top=(), logprob=-0.5):
    """An engine that generates these tokens. `top` are the alternatives at each position."""
    outputs = [
        SequenceOutput(
            0,
            list(ids),
            FinishReason.LENGTH,
            logprobs=[logprob] * len(ids),
            top=[top] * len(ids),
        )
    ]
    return FakeEngine(outputs)


async def test_a_part_of_a_character_has_its_own_bytes_in_chats(make_client, parts):
    first, *_, last = parts
    body = CHAT | {"logprobs": True, "top_logprobs": 1}
    async with make_client(engine_with(first, last, top=((last, -0.1),))) as client:
        [choice] = (await client.post("/v1/chat/completions", json=body)).json()["choices"]
    data = CHARACTER.encode()
    content = choice["logprobs"]["content"]
    assert [token["bytes"] for token in content] == [[data[0]], [data[-1]]]
    assert [token["token"] for token in content] == ["\\xf0", "\\x85"]
    assert [token["top_logprobs"][0]["bytes"] for token in content] == [[data[-1]]] * 2


async def test_parts_of_a_character_have_different_names_in_completions(make_client, parts):
    top = tuple((part, -1.0 - index) for index, part in enumerate(parts))
    body = {"prompt": PROMPT, "max_tokens": 3, "logprobs": 4}
    async with make_client(engine_with(*parts, top=top)) as client:
        [choice] = (await client.post("/v1/completions", json=body)).json()["choices"]
    names = [f"bytes:\\x{byte:02x}" for byte in CHARACTER.encode()]
    assert choice["logprobs"]["tokens"] == names
    assert [list(entry) for entry in choice["logprobs"]["top_logprobs"]] == [names] * 4


async def test_the_offset_of_an_echoed_part_is_that_of_its_character(make_client, tokenizer):
    text = f"a{CHARACTER}b"
    body = {"prompt": text, "max_tokens": 0, "echo": True, "logprobs": 1}
    async with make_client(enable_prefill_logprobs=True) as client:
        [choice] = (await client.post("/v1/completions", json=body)).json()["choices"]
    spans = list(tokenizer.tokenize(text))
    offsets = [len(text.encode()[: span.start].decode(errors="ignore")) for span in spans]
    assert choice["logprobs"]["text_offset"] == offsets
    assert offsets[-4:] == [1, 1, 1, 2]


async def test_only_the_first_token_of_an_echoed_prompt_has_no_alternatives(make_client):
    body = {"prompt": PROMPT, "max_tokens": 0, "echo": True, "logprobs": 1}
    async with make_client(enable_prefill_logprobs=True) as client:
        [choice] = (await client.post("/v1/completions", json=body)).json()["choices"]
    first, *rest = choice["logprobs"]["top_logprobs"]
    assert first is None
    assert rest
    names = choice["logprobs"]["tokens"][1:]
    assert [entry[name] for entry, name in zip(rest, names, strict=True)] == [-0.5] * len(rest)


@pytest.mark.parametrize("count", [0, 1, 2])
async def test_the_most_likely_tokens_of_an_echoed_prompt_are_listed(make_client, tokenizer, count):
    body = {"prompt": PROMPT, "max_tokens": 0, "echo": True, "logprobs": count}
    async with make_client(enable_prefill_logprobs=True) as client:
        [choice] = (await client.post("/v1/completions", json=body)).json()["choices"]
    ids = [token + 1 for token in tokenizer.encode(PROMPT).ids[1:]]
    others = [tokenizer.spelling.of(token).decode() for token in ids]
    for entry, other in zip(choice["logprobs"]["top_logprobs"][1:], others, strict=True):
        assert len(entry) == max(count, 1)
        assert entry.get(other) == (-1.5 if count == 2 else None)


async def test_a_backend_without_top_tokens_of_prompts_returns_the_prompt_tokens(make_client):
    engine = FakeEngine()
    engine.has_prompt_tops = False
    body = {"prompt": PROMPT, "max_tokens": 0, "echo": True, "logprobs": 2}
    async with make_client(engine, enable_prefill_logprobs=True) as client:
        [choice] = (await client.post("/v1/completions", json=body)).json()["choices"]
    first, *rest = choice["logprobs"]["top_logprobs"]
    assert first is None
    assert [list(entry) for entry in rest] == [[n] for n in choice["logprobs"]["tokens"][1:]]


async def test_native_prefill_does_not_contain_top_tokens(make_client):
    parameters = {"max_new_tokens": 1, "decoder_input_details": True, "details": True}
    responses = []
    for count in (None, 2):
        body = {"inputs": PROMPT, "parameters": parameters | {"top_n_tokens": count}}
        async with make_client(enable_prefill_logprobs=True) as client:
            responses.append((await client.post("/generate", json=body)).json())
    assert responses[0]["details"]["prefill"] == responses[1]["details"]["prefill"]
    assert all(set(t) == {"id", "text", "logprob"} for t in responses[1]["details"]["prefill"])


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("count", [0, 1, 2])
async def test_the_sampled_token_is_among_its_alternatives(make_client, tokenizer, count, stream):
    sampled, *others = tokenizer.encode("The quick brown fox", add_special_tokens=False).ids[-4:]
    top = tuple((other, -0.1) for other in others)  # three equal values, as after a tie
    body = {"prompt": PROMPT, "max_tokens": 1, "logprobs": count, "stream": stream}
    async with make_client(engine_with(sampled, top=top[: count + 1])) as client:
        response = await client.post("/v1/completions", json=body)
    parsed = openai_chunks(response.text)[0] if stream else response.json()
    columns = parsed["choices"][0]["logprobs"]
    [alternatives] = columns["top_logprobs"]
    assert len(alternatives) == count + 1
    assert alternatives[columns["tokens"][0]] == -0.5


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
async def test_log_probabilities_have_the_digits_of_a_float32(make_client, tokenizer, path, stream):
    token = tokenizer.encode("fox").ids[-1]
    value = -0.609629213809967  # the float64 digits of a float32
    engine = engine_with(token, top=((token, value),), logprob=value)
    body = {
        "/v1/chat/completions": CHAT | {"logprobs": True, "top_logprobs": 1},
        "/v1/completions": {"prompt": PROMPT, "max_tokens": 1, "logprobs": 1},
        "/v1/responses": {"input": PROMPT, "top_logprobs": 1},
    }[path]
    async with make_client(engine) as client:
        response = await client.post(path, json=body | {"stream": stream})
    found = re.findall(r"-0\.6\d+", response.text)
    assert found
    assert set(found) == {"-0.6096292"}


@pytest.mark.parametrize(
    "fields",
    [{"top_logprobs": 1}, {"include": ["message.output_text.logprobs"]}],
)
async def test_responses_contain_log_probabilities_on_request(make_client, parts, fields):
    top = ((parts[0], -0.1),) if "top_logprobs" in fields else ()
    body = {"input": PROMPT, **fields}
    async with make_client(engine_with(*parts, top=top)) as client:
        whole = (await client.post("/v1/responses", json=body)).json()
        streamed = responses_events(
            (await client.post("/v1/responses", json=body | {"stream": True})).text
        )
        plain = (await client.post("/v1/responses", json={"input": PROMPT})).json()
    [part] = whole["output"][0]["content"]
    assert [entry["bytes"] for entry in part["logprobs"]] == [[b] for b in CHARACTER.encode()]
    assert [len(entry["top_logprobs"]) for entry in part["logprobs"]] == [len(top)] * len(parts)
    deltas = [event for event in streamed if event["type"] == "response.output_text.delta"]
    assert [entry for event in deltas for entry in event["logprobs"]] == part["logprobs"]
    assert streamed[-1]["response"]["output"][0]["content"] == [part]
    assert plain["output"][0]["content"][0]["logprobs"] == []
