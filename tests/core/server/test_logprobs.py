"""Log probabilities of prompts and outputs on the OpenAI routes."""

from tests.core.server.fake_engine import FakeEngine
from tests.stream_checks import openai_chunks

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
