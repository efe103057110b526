"""Serving on a device with static shapes.

All tests of the live server run unchanged. Others test a device with fewer features.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.compat.test_live_server import *  # noqa: F403 - the same tests on another device
from tests.live_server import running_server

PROMPT = {"inputs": "The quick brown fox"}


@pytest.fixture(scope="module")
def tgi_backend():
    return "static"


@pytest.fixture(scope="module")
def live_server(tmp_path_factory, tiny_model, tgi_backend):
    with running_server(
        tiny_model, tgi_backend, tmp_path_factory.mktemp("static") / "server.log"
    ) as server:
        yield server


@pytest.fixture(scope="module")
def poor_server(tmp_path_factory, tiny_model):
    log = tmp_path_factory.mktemp("poor") / "server.log"
    with running_server(tiny_model, "static", log, "--static-variant", "poor") as server:
        yield server


def post(server, path="/generate", /, **body):
    return httpx.post(f"{server.url}{path}", json=body, timeout=60)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"top_k": 17}, ("`top_k`", "<= 16", "`static`", "Given: 17")),
        ({"repetition_penalty": 1.2}, ("`repetition_penalty`", "`static`")),
        ({"frequency_penalty": 0.5}, ("`frequency_penalty`", "`static`")),
        ({"typical_p": 0.5}, ("`typical_p`", "`static`")),
        ({"watermark": True}, ("`watermark`", "`static`")),
        ({"top_n_tokens": 2}, ("`top_n_tokens`", "`static`")),
    ],
)
def test_features_that_were_not_negotiated_are_rejected(poor_server, parameters, words):
    response = post(poor_server, **PROMPT, parameters=parameters | {"max_new_tokens": 3})
    assert response.status_code == 422
    assert response.json()["error_type"] == "validation"
    assert [word for word in words if word not in response.json()["error"]] == []


def test_log_probabilities_are_null_if_not_negotiated(poor_server):
    parameters = {
        "max_new_tokens": 4,
        "top_k": 16,
        "top_p": 0.9,
        "temperature": 0.8,
        "seed": 3,
        "details": True,
    }
    response = post(poor_server, **PROMPT, parameters=parameters)
    assert response.status_code == 200
    tokens = response.json()["details"]["tokens"]
    assert len(tokens) == 4
    assert [token["logprob"] for token in tokens] == [None] * 4


def test_openai_routes_return_null_for_log_probabilities(poor_server):
    body = {
        "model": "tgi",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 3,
        "logprobs": True,
    }
    response = post(poor_server, "/v1/chat/completions", **body)
    assert response.status_code == 200
    assert not any(
        entry.get("logprob")
        for entry in (response.json()["choices"][0]["logprobs"] or {}).get("content") or []
    )
    assert response.json()["usage"]["completion_tokens"] == 3


def test_the_full_variant_returns_log_probabilities(live_server):
    response = post(live_server, **PROMPT, parameters={"max_new_tokens": 2, "details": True})
    assert all(token["logprob"] < 0 for token in response.json()["details"]["tokens"])


def test_requests_beyond_the_slots_wait(live_server):
    """There are more clients than slots. Each sequence is alone in its prefill step."""
    with httpx.Client(timeout=120) as client, ThreadPoolExecutor(12) as pool:
        bodies = [
            {"inputs": "fox " * (i + 1), "parameters": {"max_new_tokens": 8, "ignore_eos": True}}
            for i in range(12)
        ]
        responses = list(
            pool.map(lambda body: client.post(f"{live_server.url}/generate", json=body), bodies)
        )
    assert [response.status_code for response in responses] == [200] * 12
