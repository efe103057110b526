"""`/generate`, `/generate_stream`, `POST /` and `/tokenize`: bytes, headers, errors and seeds."""

import pytest

from tests.core.server.fake_engine import FakeEngine
from tests.stream_checks import native_events
from tgi.scheduler.records import SequenceOutput
from tgi.types import FinishReason

PROMPT = "The quick brown fox"
DURATIONS = [
    "x-compute-time",
    "x-total-time",
    "x-validation-time",
    "x-queue-time",
    "x-inference-time",
    "x-time-per-token",
]


def body(**parameters):
    return {"inputs": PROMPT, "parameters": {"max_new_tokens": 3} | parameters}


def failures(text):
    return {
        line.split('"')[1]: int(line.split()[-1])
        for line in text.splitlines()
        if line.startswith("tgi_request_failure{")
    }


async def test_the_response_without_details_contains_only_the_text(make_client, tokenizer):
    async with make_client() as client:
        response = await client.post("/generate", json=body())
    ids = tokenizer.encode(PROMPT, add_special_tokens=True).ids
    expected = tokenizer.decode(ids[:3], skip_special_tokens=True)
    assert response.json() == {"generated_text": expected}
    assert response.headers["content-type"] == "application/json"


async def test_details_have_the_members_of_tgi_in_order(make_client):
    async with make_client() as client:
        response = await client.post("/generate", json=body(details=True))
    details = response.json()["details"]
    assert list(details) == ["finish_reason", "generated_tokens", "seed", "prefill", "tokens"]
    assert (details["finish_reason"], details["generated_tokens"], details["seed"]) == (
        "length",
        3,
        None,
    )
    assert details["prefill"] == []
    assert [list(token) for token in details["tokens"]] == [
        ["id", "text", "logprob", "special"]
    ] * 3
    assert '"logprob":-0.5' in response.text


async def test_top_tokens_are_listed_on_request(make_client):
    async with make_client() as client:
        details = (await client.post("/generate", json=body(details=True, top_n_tokens=2))).json()[
            "details"
        ]
    assert list(details)[-1] == "top_tokens"
    assert [[top["logprob"] for top in tops] for tops in details["top_tokens"]] == [
        [-0.5, -1.0]
    ] * 3


@pytest.mark.parametrize("enabled", [True, False])
async def test_prompt_details_require_a_server_option(make_client, enabled):
    engine = FakeEngine()
    async with make_client(engine, enable_prefill_logprobs=enabled) as client:
        details = (await client.post("/generate", json=body(decoder_input_details=True))).json()[
            "details"
        ]
    if not enabled:
        assert details["prefill"] == []
        return
    assert [entry["id"] for entry in details["prefill"]] == engine.requests[0].prompt_token_ids
    assert [entry["logprob"] for entry in details["prefill"]][:2] == [None, -0.5]
    assert all(list(entry) == ["id", "text", "logprob"] for entry in details["prefill"])


async def test_the_root_route_returns_a_list_with_the_full_text(make_client):
    async with make_client() as client:
        plain = (await client.post("/generate", json=body())).json()["generated_text"]
        assert (await client.post("/", json=body())).json() == [{"generated_text": PROMPT + plain}]
        assert (await client.post("/", json=body(return_full_text=False))).json() == [
            {"generated_text": plain}
        ]
        assert (await client.post("/generate", json=body(return_full_text=True))).json() == {
            "generated_text": PROMPT + plain
        }


async def test_the_headers_of_a_response(make_client):
    engine = FakeEngine()
    async with make_client(engine) as client:
        headers = (await client.post("/generate", json=body())).headers
    assert headers["x-compute-type"] == "1-fake"
    assert headers["x-compute-characters"] == str(len(PROMPT))
    assert headers["x-prompt-tokens"] == str(len(engine.requests[0].prompt_token_ids))
    assert headers["x-generated-tokens"] == "3"
    assert all(float(headers[name]) >= 0 for name in DURATIONS)
    assert all(headers[name].isdigit() for name in DURATIONS[1:])


async def test_a_stream_has_one_event_per_token(make_client):
    async with make_client() as client:
        response = await client.post(
            "/generate_stream", json=body(details=True, do_sample=True, seed=9)
        )
        plain = (await client.post("/generate", json=body())).json()["generated_text"]
    found = native_events(response.text)
    assert [event["index"] for event in found] == [1, 2, 3]
    assert all(list(event) == ["index", "token", "generated_text", "details"] for event in found)
    assert [event["generated_text"] for event in found] == [None, None, plain]
    assert [event["details"] for event in found[:2]] == [None, None]
    assert list(found[-1]["details"]) == [
        "finish_reason",
        "generated_tokens",
        "seed",
        "input_length",
    ]
    assert found[-1]["details"]["seed"] == 9
    assert "".join(event["token"]["text"] for event in found) == plain


async def test_the_headers_of_a_stream(make_client):
    async with make_client() as client:
        headers = (await client.post("/generate_stream", json=body())).headers
    assert headers["content-type"] == "text/event-stream"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-compute-type"] == "1-fake"
    assert headers["x-compute-characters"] == str(len(PROMPT))
    assert "x-compute-time" not in headers


async def test_the_root_route_streams(make_client):
    async with make_client() as client:
        found = native_events((await client.post("/", json=body() | {"stream": True})).text)
    assert found[-1]["generated_text"].startswith(PROMPT)


async def test_a_seed_is_reported_only_if_it_was_used(make_client):
    engine = FakeEngine()
    async with make_client(engine) as client:
        greedy = (await client.post("/generate", json=body(details=True, seed=5))).json()
        random = (await client.post("/generate", json=body(details=True, do_sample=True))).json()
        another = (await client.post("/generate", json=body(details=True, temperature=0.5))).json()
    assert greedy["details"]["seed"] is None
    assert random["details"]["seed"] == engine.requests[1].seed
    assert random["details"]["seed"] != another["details"]["seed"]


async def test_absent_parameters_sample(make_client):
    engine = FakeEngine()
    async with make_client(engine) as client:
        await client.post("/generate", json={"inputs": PROMPT})
        await client.post("/generate", json={"inputs": PROMPT, "parameters": {}})
    assert [request.sampling.greedy for request in engine.requests] == [False, True]


async def test_eos_ends_a_sequence_unless_it_is_ignored(make_client, tokenizer):
    engine = FakeEngine()
    async with make_client(engine) as client:
        await client.post("/generate", json=body())
        await client.post("/generate", json=body(ignore_eos=True))
    assert engine.requests[0].eos_token_ids == tuple(tokenizer.eos_token_ids)
    assert engine.requests[1].eos_token_ids == ()


async def test_a_prompt_is_truncated(make_client):
    engine = FakeEngine()
    async with make_client(engine) as client:
        await client.post("/generate", json=body(truncate=2))
    assert len(engine.requests[0].prompt_token_ids) == 2


async def test_the_text_includes_the_stop_string(make_client):
    engine = FakeEngine()
    async with make_client(engine) as client:
        response = (
            await client.post(
                "/generate", json=body(max_new_tokens=20, stop=["quick"], details=True)
            )
        ).json()
    assert response["generated_text"].endswith("quick")
    assert response["details"]["finish_reason"] == "stop_sequence"
    assert response["details"]["generated_tokens"] == len(response["details"]["tokens"])


async def test_invalid_requests_are_422(make_client):
    async with make_client() as client:
        response = await client.post("/generate", json=body(top_k=0))
        counted = failures((await client.get("/metrics")).text)
    assert response.status_code == 422
    assert response.json() == {
        "error": "Input validation error: `top_k` must be strictly positive",
        "error_type": "validation",
    }
    assert counted == {"validation": 1}


@pytest.mark.parametrize(
    "parameters",
    [{"top_k": 0}, {"best_of": 0}, {"decoder_input_details": True}, {"watermark": True}],
)
async def test_invalid_streams_are_200_with_an_error_event(make_client, parameters):
    async with make_client() as client:
        response = await client.post("/generate_stream", json=body(**parameters))
        counted = failures((await client.get("/metrics")).text)
    assert response.status_code == 200
    [found] = native_events(response.text)
    assert list(found) == ["error", "error_type"]
    assert found["error_type"] == "validation"
    assert counted == {"validation": 1}


async def test_a_failure_of_the_engine_is_424(make_client):
    engine = FakeEngine([SequenceOutput(0, error="out of memory")])
    async with make_client(engine) as client:
        response = await client.post("/generate", json=body())
        [found] = native_events((await client.post("/generate_stream", json=body())).text)
    assert response.status_code == 424
    assert response.json() == {
        "error": "Request failed during generation: out of memory",
        "error_type": "generation",
    }
    assert found == response.json()


class CutOffEngine(FakeEngine):
    """An engine that disconnects after one token."""

    def submit(self, request, outputs):
        stream = super().submit(request, outputs)
        stream.cut_off()
        return stream


async def test_an_incomplete_generation_is_reported(make_client):
    async with make_client(CutOffEngine([SequenceOutput(0, [5])])) as client:
        response = await client.post("/generate", json=body())
        stream = await client.post("/generate_stream", json=body())
        metrics = (await client.get("/metrics")).text
    assert response.status_code == 500
    assert response.json() == {
        "error": "Incomplete generation",
        "error_type": "incomplete_generation",
    }
    assert native_events(stream.text)[1:] == [
        {"error": "Incomplete generation stream", "error_type": "incomplete_generation_stream"}
    ]
    assert failures(metrics)["incomplete"] == 2


async def test_a_finished_request_is_counted(make_client):
    async with make_client() as client:
        await client.post("/generate", json=body())
        await client.post("/generate_stream", json=body())
        text = (await client.get("/metrics")).text
    assert "\ntgi_request_count 2\n" in text
    assert "\ntgi_request_success 2\n" in text
    assert "tgi_request_generated_tokens_sum 6\n" in text
    assert failures(text) == {}


async def test_eos_is_a_separate_event_and_not_in_the_text(make_client, tokenizer):
    eos = tokenizer.eos_token_ids[0]
    token = tokenizer.encode("fox", add_special_tokens=False).ids[0]
    engine = FakeEngine(
        [SequenceOutput(0, [token, eos], FinishReason.EOS_TOKEN, logprobs=[-1.0, -2.0])]
    )
    async with make_client(engine) as client:
        found = native_events((await client.post("/generate_stream", json=body(details=True))).text)
    assert [event["token"]["special"] for event in found] == [False, True]
    assert found[-1]["generated_text"] == tokenizer.decode([token], skip_special_tokens=True)
    assert found[-1]["details"]["finish_reason"] == "eos_token"


async def test_tokenize_returns_byte_ranges(make_client):
    async with make_client() as client:
        response = await client.post("/tokenize", json={"inputs": "Löwe läuft"})
        metrics = await client.get("/metrics")
    text = "Löwe läuft".encode()
    assert response.status_code == 200
    assert all(list(token) == ["id", "text", "start", "stop"] for token in response.json())
    for token in response.json():
        assert text[token["start"] : token["stop"]].decode(errors="replace") == token["text"]
    assert max(token["stop"] for token in response.json()) == len(text)
    assert metrics.text == ""
