"""Each feature of TGI 3's HTTP interface, except grammars, tools, adapters, images and speculative
decoding: requests that use the feature, and a check of its visible effect.
"""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.live_server import running_server

MESSAGES = [{"role": "user", "content": "hi"}]
LONG = "one two three four five six seven eight nine ten"


@pytest.fixture(scope="module")
def client(tmp_path_factory, tiny_model):
    log = tmp_path_factory.mktemp("acceptance") / "server.log"
    with (
        running_server(tiny_model, "cpu", log, "--enable-prefill-logprobs") as server,
        httpx.Client(base_url=server.url, timeout=60) as it,
    ):
        yield it


def generate(client: httpx.Client, inputs: str = "a", /, **parameters: Any) -> dict[str, Any]:
    response = client.post(
        "/generate",
        json={"inputs": inputs, "parameters": {"max_new_tokens": 6, "details": True, **parameters}},
    )
    assert response.status_code == 200, response.text
    return response.json()


def events(client: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    lines = client.post(path, json=body).text.split("\n\n")
    return [
        json.loads(line.removeprefix("data:"))
        for line in lines
        if line.startswith("data:") and "[DONE]" not in line
    ]


def chat(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = client.post(
        "/v1/chat/completions",
        json={"model": "tgi", "messages": MESSAGES, "max_tokens": 5, "seed": 1, **fields},
    )
    assert response.status_code == 200, response.text
    return response.json()


def complete(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post(
        "/v1/completions", json={"model": "tgi", "prompt": "a", "max_tokens": 5, **fields}
    )


def text_only(client):
    response = client.post("/generate", json={"inputs": "a", "parameters": {"max_new_tokens": 4}})
    assert list(response.json()) == ["generated_text"]


def details(client):
    found = generate(client)["details"]
    assert (found["finish_reason"], found["generated_tokens"], found["seed"], found["prefill"]) == (
        "length",
        6,
        None,
        [],
    )
    assert [sorted(token) for token in found["tokens"]] == [
        ["id", "logprob", "special", "text"]
    ] * 6


def prefill_details(client):
    first, *others = generate(client, LONG, decoder_input_details=True)["details"]["prefill"]
    assert first["logprob"] is None
    assert others
    assert all(token["logprob"] <= 0 for token in others)


def top_tokens(client):
    tops = generate(client, top_n_tokens=3)["details"]["top_tokens"]
    assert len(tops) == 6
    assert all(len(top) >= 3 for top in tops)


def seeds(client):
    sampling = {
        "do_sample": True,
        "temperature": 0.9,
        "top_k": 50,
        "top_p": 0.95,
        "typical_p": 0.95,
        "max_new_tokens": 16,
    }
    first, again, other = (generate(client, **sampling, seed=seed) for seed in (1, 1, 2))
    assert first["details"]["seed"] == 1
    assert first["generated_text"] == again["generated_text"] != other["generated_text"]


def greedy_by_default(client):
    first, again = generate(client), generate(client)
    assert first["generated_text"] == again["generated_text"]
    assert first["details"]["seed"] is None


def sampled_without_parameters(client):
    responses = {
        client.post("/generate", json={"inputs": "a"}).json()["generated_text"] for _ in range(3)
    }
    assert len(responses) > 1


def penalties(client):
    plain = generate(client, LONG, max_new_tokens=24)["generated_text"]
    for name in ("repetition_penalty", "frequency_penalty"):
        assert generate(client, LONG, max_new_tokens=24, **{name: 1.9})["generated_text"] != plain


def stop_sequences(client):
    text = generate(client, max_new_tokens=12)["generated_text"]
    stop = text[len(text) // 2 :][:3]
    found = generate(client, max_new_tokens=12, stop=[stop])
    assert found["generated_text"] == text[: text.index(stop) + len(stop)]
    assert found["details"]["finish_reason"] == "stop_sequence"


def truncate(client):
    assert (
        len(generate(client, LONG, truncate=2, decoder_input_details=True)["details"]["prefill"])
        == 2
    )


def full_text(client):
    assert generate(client, LONG, return_full_text=True)["generated_text"].startswith(LONG)


def best_of(client):
    assert len(generate(client, best_of=2, do_sample=True)["details"]["best_of_sequences"]) == 1


def stream(client):
    parameters = {"max_new_tokens": 3, "details": True, "top_n_tokens": 2}
    found = events(client, "/generate_stream", {"inputs": "a", "parameters": parameters})
    assert [event["index"] for event in found] == [1, 2, 3]
    assert [event["generated_text"] is None for event in found] == [True, True, False]
    assert found[-1]["details"]["input_length"] >= 1
    assert all(len(event["top_tokens"]) >= 2 for event in found)


def error_in_a_stream(client):
    (found,) = events(client, "/generate_stream", {"inputs": "a", "parameters": {"temperature": 0}})
    assert found["error_type"] == "validation"


def stream_headers(client):
    headers = client.post(
        "/generate_stream", json={"inputs": "a", "parameters": {"max_new_tokens": 1}}
    ).headers
    assert headers["content-type"] == "text/event-stream"
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache", "no")


def root_route(client):
    (response,) = client.post(
        "/", json={"inputs": LONG, "parameters": {"max_new_tokens": 2}}
    ).json()
    assert response["generated_text"].startswith(LONG)
    assert (
        len(
            events(
                client, "/", {"inputs": "a", "stream": True, "parameters": {"max_new_tokens": 3}}
            )
        )
        == 3
    )


def invocations(client):
    parameters = {"max_new_tokens": 2}
    assert (
        "generated_text"
        in client.post("/invocations", json={"inputs": "a", "parameters": parameters}).json()[0]
    )
    for body in ({"messages": MESSAGES}, {"prompt": "a"}):
        assert client.post("/invocations", json={"model": "tgi", "max_tokens": 2, **body}).json()[
            "choices"
        ]
    assert client.get("/ping").status_code == 200


def vertex_and_kserve(client):
    instances = [{"inputs": "a", "parameters": {"max_new_tokens": 2}}]
    assert len(client.post("/vertex", json={"instances": instances}).json()["predictions"]) == 1
    assert client.get("/v2/health/live").json() == {"live": True}


def information(client):
    info = client.get("/info").json()
    assert info["router"] == "text-generation-router"
    for path in ("/health", "/"):
        response = client.get(path)
        assert (response.status_code, response.content) == (200, b"")
    assert len(client.get("/v1/models").json()["data"]) == 1
    assert "tgi_request_count" in client.get("/metrics").text
    assert client.get("/docs").status_code in (200, 303)
    assert len(client.get("/api-doc/openapi.json").json()["paths"]) >= 12


def tokens(client):
    found = client.post("/tokenize", json={"inputs": "héllo"}).json()
    assert found[-1]["stop"] == len("héllo".encode())
    found = client.post("/chat_tokenize", json={"model": "tgi", "messages": MESSAGES}).json()
    assert found["templated_text"] == "user: hi\nassistant: "
    assert found["tokenize_response"]


def timing_headers(client):
    headers = client.post(
        "/generate", json={"inputs": "a", "parameters": {"max_new_tokens": 2}}
    ).headers
    names = (
        "compute-type compute-time compute-characters total-time validation-time queue-time"
        " inference-time time-per-token"
    )
    assert {
        f"x-{name}" for name in (*names.split(), "prompt-tokens", "generated-tokens")
    } <= headers.keys()


def preflight(client):
    headers = {"origin": "http://a.example", "access-control-request-method": "POST"}
    response = client.options("/generate", headers=headers)
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, "*")


def rejected_bodies(client):
    json_type = {"content-type": "application/json"}
    assert client.post("/generate", content=b"{", headers=json_type).status_code == 400
    assert client.post("/generate", content=b'{"inputs": 1}', headers=json_type).status_code == 422
    assert (
        client.post(
            "/generate", content=b'{"inputs": "a"}', headers={"content-type": "text/plain"}
        ).status_code
        == 415
    )
    assert client.post("/generate", json={"inputs": "a" * 3_000_000}).status_code == 413


def chat_response(client):
    response = chat(client, temperature=0)
    assert (response["object"], response["usage"]["completion_tokens"]) == ("chat.completion", 5)
    parts = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    assert (
        chat(client, messages=parts, temperature=0)["choices"][0]["message"]
        == response["choices"][0]["message"]
    )


def chat_stream(client):
    body = {
        "model": "tgi",
        "messages": MESSAGES,
        "max_tokens": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert client.post("/v1/chat/completions", json=body).text.endswith("data: [DONE]\n\n")
    last = events(client, "/v1/chat/completions", body)[-1]
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 3)


def chat_logprobs(client):
    content = chat(client, logprobs=True, top_logprobs=3, temperature=0)["choices"][0]["logprobs"][
        "content"
    ]
    assert [len(token["top_logprobs"]) >= 3 for token in content] == [True] * 5


def chat_parameters(client):
    assert chat(client, max_tokens=None, max_completion_tokens=2)["usage"]["completion_tokens"] == 2
    sampling = {
        "temperature": 0.9,
        "top_p": 0.9,
        "seed": 3,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.5,
        "max_tokens": 12,
    }
    first, again = (chat(client, **sampling)["choices"][0]["message"]["content"] for _ in range(2))
    assert first == again
    continued = [*MESSAGES, {"role": "assistant", "content": "Once"}]
    found = client.post("/chat_tokenize", json={"model": "tgi", "messages": continued}).json()
    assert found["templated_text"].endswith("Once")
    rejected = client.post(
        "/v1/chat/completions",
        json={"model": "tgi", "messages": MESSAGES, "presence_penalty": -2.5},
    )
    assert rejected.status_code == 422


def completions(client):
    response = complete(client).json()
    assert (response["object"], response["usage"]["completion_tokens"]) == ("text_completion", 5)
    assert [
        choice["index"] for choice in complete(client, prompt=["a", "b", "c"]).json()["choices"]
    ] == [0, 1, 2]
    for rejected in ({"prompt": ["a"] * 5}, {"suffix": "x"}, {"prompt": []}):
        assert complete(client, **rejected).status_code == 422
    body = {"model": "tgi", "prompt": ["a", "b"], "max_tokens": 3, "stream": True}
    assert {
        choice["index"]
        for event in events(client, "/v1/completions", body)
        for choice in event["choices"]
    } == {0, 1}


FEATURES: list[Callable[[httpx.Client], None]] = [
    text_only, details, prefill_details, top_tokens, seeds, greedy_by_default,
    sampled_without_parameters, penalties, stop_sequences, truncate, full_text, best_of, stream,
    error_in_a_stream, stream_headers, root_route, invocations, vertex_and_kserve, information,
    tokens, timing_headers, preflight, rejected_bodies, chat_response, chat_stream, chat_logprobs,
    chat_parameters, completions,
]  # fmt: skip


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.__name__)
def test_a_feature_of_tgi(client, feature):
    feature(client)
