"""Several sequences and several prompts in one request: `best_of`, `n`, prompt arrays and echo."""

import pytest

from tests.core.server.fake_engine import FakeEngine, agreement
from tests.stream_checks import native_events, openai_chunks
from tgi.scheduler.records import SequenceOutput
from tgi.types import FinishReason

PROMPT = "The quick brown fox"
SAMPLING = (*agreement().sampling, "logit_bias")
CHAT = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 3}


class RankedEngine(FakeEngine):
    """An engine whose sequence i generates the token 10 + i with log probability `logprobs[i]`."""

    def __init__(self, *logprobs):
        super().__init__(sampling=SAMPLING)
        self.logprobs = logprobs

    def _echo(self, stream):
        logprob = self.logprobs[stream.sequence_id]
        yield SequenceOutput(
            stream.sequence_id,
            [10 + stream.sequence_id] * 2,
            FinishReason.LENGTH,
            logprobs=[logprob] * 2,
        )


def native(**parameters):
    return {
        "inputs": PROMPT,
        "parameters": {"do_sample": True, "max_new_tokens": 2, "details": True} | parameters,
    }


async def test_best_of_returns_the_most_likely_sequence(make_client):
    engine = RankedEngine(-2.0, -0.5, -1.0)
    async with make_client(engine, max_best_of=3, max_concurrent_requests=3) as client:
        response = await client.post("/generate", json=native(best_of=3))
    details = response.json()["details"]
    assert [token["id"] for token in details["tokens"]] == [11, 11]
    assert list(details)[-1] == "best_of_sequences"
    others = details["best_of_sequences"]
    assert [other["tokens"][0]["id"] for other in others] == [12, 10]
    assert list(others[0]) == [
        "generated_text",
        "finish_reason",
        "generated_tokens",
        "seed",
        "prefill",
        "tokens",
    ]
    seeds = {details["seed"], *(other["seed"] for other in others)}
    assert seeds == {request.seed for request in engine.requests}
    assert len(seeds) == len({request.request_id for request in engine.requests}) == 3
    assert response.headers["x-generated-tokens"] == "2"


async def test_every_sequence_of_best_of_starts_with_the_prompt(make_client):
    async with make_client(RankedEngine(-1.0, -2.0)) as client:
        parsed = (
            await client.post(
                "/generate", json=native(best_of=2, return_full_text=True, top_n_tokens=1)
            )
        ).json()
    [other] = parsed["details"]["best_of_sequences"]
    assert parsed["generated_text"].startswith(PROMPT)
    assert other["generated_text"].startswith(PROMPT)
    assert len(other["top_tokens"]) == len(parsed["details"]["top_tokens"]) == 2


async def test_every_sequence_occupies_a_concurrency_slot(make_client):
    async with make_client(RankedEngine(-1.0, -2.0), max_concurrent_requests=1) as client:
        response = await client.post("/generate", json=native(best_of=2))
        alone = await client.post("/generate", json=native(best_of=1))
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert alone.status_code == 200


async def test_one_failed_sequence_fails_the_request_and_aborts_the_others(make_client):
    class HalfFailing(FakeEngine):
        def _echo(self, stream):
            if stream.sequence_id == 1:
                yield SequenceOutput(1, error="out of luck")

    engine = HalfFailing()
    async with make_client(engine) as client:
        response = await client.post("/generate", json=native(best_of=2))
    assert response.status_code == 424
    assert response.json() == {
        "error": "Request failed during generation: out of luck",
        "error_type": "generation",
    }
    assert engine.aborted == [0]


async def test_more_than_1024_tokens_are_one_request_to_the_engine(make_client):
    limits = {"max_total_tokens": 4096, "max_input_tokens": 100}
    engine = FakeEngine()
    async with make_client(engine, **limits) as client:
        body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 1500, "details": True}}
        details = (await client.post("/generate", json=body)).json()["details"]
    assert details["generated_tokens"] == len(details["tokens"]) == 1500
    assert len(engine.requests) == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/completions", {"prompt": PROMPT, "max_tokens": 2}), ("/v1/chat/completions", CHAT)],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_n_choices_have_different_seeds(make_client, path, body, stream):
    engine = FakeEngine()
    requested = {
        "n": 2,
        "seed": 2**64 - 1,
        "stream": stream,
        "stream_options": {"include_usage": True},
    }
    async with make_client(engine) as client:
        response = await client.post(path, json=body | requested)
    assert [request.seed for request in engine.requests] == [2**64 - 1, 0]
    num_prompt, num_each = len(engine.requests[0].prompt_token_ids), body["max_tokens"]
    if stream:
        chunks = openai_chunks(response.text)
        assert (
            sorted(c["choices"][0]["index"] for c in chunks[:-1]) == [0] * num_each + [1] * num_each
        )
        usage = chunks[-1]["usage"]
    else:
        assert [choice["index"] for choice in response.json()["choices"]] == [0, 1]
        usage = response.json()["usage"]
    assert usage["prompt_tokens"] == num_prompt
    assert usage["completion_tokens"] == 2 * num_each


async def test_best_of_returns_the_n_best(make_client):
    engine = RankedEngine(-3.0, -1.0, -2.0)
    async with make_client(engine, max_concurrent_requests=3) as client:
        body = {"prompt": PROMPT, "max_tokens": 2, "n": 2, "best_of": 3}
        parsed = (await client.post("/v1/completions", json=body)).json()
    assert [choice["index"] for choice in parsed["choices"]] == [0, 1]
    assert [choice["logprobs"] for choice in parsed["choices"]] == [None, None]
    assert parsed["usage"]["completion_tokens"] == 6
    assert engine.requests[0].sampling.logprobs == "raw"


@pytest.mark.parametrize("stream", [True, False])
async def test_choices_are_in_the_order_of_the_prompts(make_client, tokenizer, stream):
    engine = FakeEngine()
    body = {
        "prompt": ["The quick", "brown fox"],
        "max_tokens": 1,
        "temperature": 0,
        "stream": stream,
    }
    async with make_client(engine) as client:
        response = await client.post("/v1/completions", json=body)
    choices = (
        [c for chunk in openai_chunks(response.text) for c in chunk["choices"]]
        if stream
        else response.json()["choices"]
    )
    texts = {choice["index"]: choice["text"] for choice in choices}
    firsts = [request.prompt_token_ids[0] for request in engine.requests]
    expected = [FakeText(tokenizer, ids).text for ids in firsts]
    assert [texts[0], texts[1]] == expected
    if not stream:
        assert response.headers["x-compute-characters"] == "18"


class FakeText:
    def __init__(self, tokenizer, token):
        self.text = "" if token in tokenizer.special_ids else tokenizer.token_text(token)


async def test_prompts_may_be_token_ids(make_client, tokenizer):
    engine = FakeEngine(vocab_size=tokenizer.vocab_size)
    ids = tokenizer.encode(PROMPT, add_special_tokens=False).ids
    async with make_client(engine) as client:
        flat = await client.post(
            "/v1/completions", json={"prompt": ids, "max_tokens": 1, "echo": True}
        )
        nested = await client.post(
            "/v1/completions", json={"prompt": [ids, ids[:2]], "max_tokens": 1}
        )
        outside = await client.post(
            "/v1/completions", json={"prompt": [ids, [5_000]], "max_tokens": 1}
        )
    assert [request.prompt_token_ids for request in engine.requests[:3]] == [ids, ids, ids[:2]]
    assert flat.json()["choices"][0]["text"].startswith(tokenizer.decode(ids))
    assert len(nested.json()["choices"]) == 2
    assert outside.json()["error"]["message"] == (
        "Input validation error: `prompt` must contain token ids >= 0 and <"
        f" {tokenizer.vocab_size}. Given: 5000"
    )


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ([], "Empty array detected. Do not use an empty array for the prompt."),
        ([[]], "data did not match any variant of untagged enum PromptDeserializer"),
        (["a", 1], "data did not match any variant of untagged enum PromptDeserializer"),
        ([True], "data did not match any variant of untagged enum PromptDeserializer"),
    ],
)
async def test_a_prompt_of_another_type_is_rejected(make_client, prompt, text):
    async with make_client() as client:
        response = await client.post("/v1/completions", json={"prompt": prompt})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (422, "prompt")
    assert (
        error["message"]
        == f"Failed to deserialize the JSON body into the target type: prompt: {text}"
    )


async def test_the_prompt_is_echoed(make_client):
    body = {"prompt": PROMPT, "max_tokens": 2, "temperature": 0, "echo": True}
    async with make_client() as client:
        plain = (await client.post("/v1/completions", json=body | {"echo": False})).json()[
            "choices"
        ][0]["text"]
        whole = (await client.post("/v1/completions", json=body)).json()["choices"][0]["text"]
        chunks = openai_chunks(
            (await client.post("/v1/completions", json=body | {"stream": True})).text
        )
    assert whole == PROMPT + plain
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole


async def test_a_bias_is_passed_to_the_backend(make_client):
    engine = FakeEngine(sampling=SAMPLING)
    async with make_client(engine) as client:
        good = await client.post(
            "/v1/chat/completions", json=CHAT | {"logit_bias": {"5": -100, "7": 1.5}}
        )
    async with make_client(FakeEngine(sampling=SAMPLING, vocab_size=100)) as client:
        rejected = [
            (await client.post("/v1/chat/completions", json=CHAT | {"logit_bias": bias})).json()[
                "error"
            ]["message"]
            for bias in ({"100": 1}, {"x": 1}, {"5": 101})
        ]
    assert good.status_code == 200
    assert engine.requests[0].sampling.logit_bias == ((5, -100.0), (7, 1.5))
    assert [text.removeprefix("Input validation error: ") for text in rejected] == [
        "`logit_bias` must contain token ids >= 0 and < 100. Given: 100",
        "`logit_bias` must be a map of token ids to numbers. Given: `x`",
        "`logit_bias` must be >= -100 and <= 100. Given: 101.0",
    ]


async def test_an_invalid_prompt_rejects_the_whole_stream(make_client):
    body = {"prompt": ["The quick", ""], "max_tokens": 2, "stream": True}
    engine = FakeEngine([])
    async with make_client(engine) as client:
        response = await client.post("/v1/completions", json=body)
        later = await client.post("/v1/completions", json=body | {"prompt": ["", ""]})
    assert (response.status_code, later.status_code) == (422, 422)
    error = response.json()["error"]
    assert error["message"] == "Input validation error: `prompt` cannot be empty"
    # The other prompt is aborted if it was submitted first, and its slot is free again.
    assert engine.aborted == list(range(len(engine.requests)))


async def test_a_failed_prompt_does_not_affect_the_others_in_its_stream(make_client):
    class HalfFailing(FakeEngine):
        def _echo(self, stream):
            if stream.sequence_id == 1:
                yield SequenceOutput(1, error="out of luck")
            else:
                yield from super()._echo(stream)

    body = {
        "prompt": ["The quick", "brown fox"],
        "max_tokens": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with make_client(HalfFailing()) as client:
        parsed = openai_chunks((await client.post("/v1/completions", json=body)).text)
    [error] = [entry for entry in parsed if "error" in entry]
    assert error["error"]["message"] == "Request failed during generation: out of luck"
    assert (error["error"]["type"], error["error_type"]) == ("server_error", "generation")
    assert [c["finish_reason"] for entry in parsed for c in entry.get("choices", [])] == [
        None,
        "length",
    ]


async def test_chat_tokenize_shows_the_prompt_of_a_chat(make_client, tokenizer):
    async with make_client() as client:
        parsed = (await client.post("/chat_tokenize", json=CHAT)).json()
    assert list(parsed) == ["tokenize_response", "templated_text"]
    assert parsed["templated_text"] == f"user: {PROMPT}\nassistant: "
    ids = tokenizer.encode(parsed["templated_text"], add_special_tokens=False).ids
    assert [token["id"] for token in parsed["tokenize_response"]] == ids
    assert (
        "".join(token["text"] for token in parsed["tokenize_response"]) == parsed["templated_text"]
    )


@pytest.mark.parametrize(
    ("path", "parameters", "expected"),
    [
        # The limits of best_of are checked before a slot is acquired, all other rules after it.
        ("/generate", {"best_of": 3, "temperature": 0}, "`best_of` must be > 0 and <= 2. Given: 3"),
        ("/generate", {"temperature": 0}, None),
        # The rules for streams are checked before a slot is acquired, and best_of is checked first.
        (
            "/generate_stream",
            {"best_of": 0, "decoder_input_details": True},
            "`best_of` != 1 is not supported when streaming tokens",
        ),
        (
            "/generate_stream",
            {"decoder_input_details": True, "temperature": 0},
            "`decoder_input_details` == true is not supported when streaming tokens",
        ),
        ("/generate_stream", {"temperature": 0}, None),
    ],
)
async def test_rules_checked_before_a_slot_is_acquired(make_client, path, parameters, expected):
    async with make_client(max_concurrent_requests=0) as client:
        response = await client.post(path, json={"inputs": "a", "parameters": parameters})
    error = response.json() if path == "/generate" else native_events(response.text)[0]
    assert error["error"] == (
        f"Input validation error: {expected}" if expected else "Model is overloaded"
    )


async def test_a_watermark_is_passed_to_the_backend(make_client):
    engine = FakeEngine(sampling=("watermark",))
    async with make_client(engine, watermark_gamma=0.25, watermark_delta=1.5) as client:
        await client.post(
            "/generate",
            json={"inputs": PROMPT, "parameters": {"watermark": True, "max_new_tokens": 1}},
        )
        await client.post("/generate", json={"inputs": PROMPT, "parameters": {"max_new_tokens": 1}})
    marks = [
        (request.sampling.watermark_gamma, request.sampling.watermark_delta)
        for request in engine.requests
    ]
    assert marks == [(0.25, 1.5), (0.0, 0.0)]
