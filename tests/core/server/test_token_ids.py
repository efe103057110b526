"""Token ids for which the model has no embedding, on every route that generates."""

import json

import pytest

from tests.core.server.fake_engine import FakeEngine

TEXT = "The quick brown fox"
CHAT = {"messages": [{"role": "user", "content": TEXT}]}
TENSOR = {"name": "in", "shape": [1], "datatype": "BYTES", "data": list(TEXT.encode())}
INFER = {"id": "7", "inputs": [TENSOR], "outputs": [{"name": "out"}]}
BODIES = {
    "/": {"inputs": TEXT},
    "/generate": {"inputs": TEXT},
    "/v1/completions": {"prompt": TEXT},
    "/v1/chat/completions": CHAT,
    "/v1/responses": {"input": TEXT},
    "/v1/messages": CHAT | {"max_tokens": 4},
    "/invocations": {"inputs": TEXT},
    "/vertex": {"instances": [{"inputs": TEXT}]},
    "/v2/models/tiny/versions/1/infer": INFER,
}
STREAMS = {
    "/": {"inputs": TEXT, "stream": True},
    "/generate_stream": {"inputs": TEXT},
    "/v1/completions": {"prompt": TEXT, "stream": True},
    "/v1/chat/completions": CHAT | {"stream": True},
    "/v1/responses": {"input": TEXT, "stream": True},
    "/v1/messages": CHAT | {"max_tokens": 4, "stream": True},
}


def highest_id(tokenizer):
    return max(tokenizer.encode(TEXT).ids)


@pytest.mark.parametrize("path", BODIES)
async def test_an_id_of_the_tokenizer_that_the_model_does_not_have_is_rejected(
    make_client, tokenizer, path
):
    vocab_size = highest_id(tokenizer)
    engine = FakeEngine(vocab_size=vocab_size)
    async with make_client(engine) as client:
        response = await client.post(path, json=BODIES[path])
    assert response.status_code in (400, 422)
    expected = (
        f"the prompt contains token id {vocab_size}, but the model has {vocab_size} token ids"
    )
    assert expected in response.text
    assert engine.requests == []


@pytest.mark.parametrize("path", STREAMS)
async def test_a_stream_with_such_an_id_ends_with_an_error(make_client, tokenizer, path):
    vocab_size = highest_id(tokenizer)
    engine = FakeEngine(vocab_size=vocab_size)
    async with make_client(engine) as client:
        response = await client.post(path, json=STREAMS[path])
    assert f"the prompt contains token id {vocab_size}" in response.text
    assert engine.requests == []


async def test_the_highest_id_of_the_model_is_accepted(make_client, tokenizer):
    engine = FakeEngine(vocab_size=highest_id(tokenizer) + 1)
    async with make_client(engine) as client:
        response = await client.post(
            "/generate", json={"inputs": TEXT, "parameters": {"max_new_tokens": 1}}
        )
    assert response.status_code == 200, json.dumps(response.json())
    assert len(engine.requests) == 1


async def test_encoder_tokens_are_checked_too(make_client, tokenizer):
    vocab_size = highest_id(tokenizer)
    engine = FakeEngine(vocab_size=vocab_size)
    async with make_client(engine, decoder_start_token_id=0) as client:
        response = await client.post("/generate", json={"inputs": TEXT})
    assert response.status_code == 422
    assert engine.requests == []


@pytest.mark.parametrize(
    ("place", "words"), [(0, "token ids >= 0"), (63, "token ids >= 0"), (64, "48")]
)
async def test_ids_after_the_length_limit_are_not_read(make_client, place, words):
    prompt = [1] * 100
    prompt[place] = 100_000
    async with make_client() as client:
        response = await client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 1})
    assert response.status_code in (400, 422)
    assert words in response.json()["error"]["message"]
    assert ("100000" in response.text) == (place < 64)
