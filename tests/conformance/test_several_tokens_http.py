"""Serving with a worker that samples several tokens per step gives the same responses."""

from __future__ import annotations

import json
import re

import httpx
import pytest

from tests.live_server import running_server

PROMPT = "The quick brown fox"


@pytest.fixture(scope="module", params=["complete", "complete-late"])
def servers(request, tmp_path_factory, tiny_model):
    """Servers with (one token per step, several tokens per step)."""
    folder = tmp_path_factory.mktemp("several")
    with (
        running_server(tiny_model, "reference", folder / "one.log") as one,
        running_server(tiny_model, request.param, folder / "several.log") as several,
    ):
        yield one, several


def post(server, path, /, **body):
    response = httpx.post(f"{server.url}{path}", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response


def generate(server, **parameters):
    return post(
        server, "/generate", inputs=PROMPT, parameters={"details": True, **parameters}
    ).json()


def decode_steps(server):
    page = httpx.get(f"{server.url}/metrics").text
    found = re.search(r'^tgi_batch_inference_count{method="decode"} (\d+)', page, re.MULTILINE)
    return int(found[1]) if found else 0


def test_steps_sample_several_tokens(servers):
    before = [decode_steps(server) for server in servers]
    for server in servers:
        generate(server, max_new_tokens=21)
    after = [decode_steps(server) for server in servers]
    assert [now - then for now, then in zip(after, before, strict=True)] == [20, 5]


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_new_tokens": 21},
        {"max_new_tokens": 1},
        {"max_new_tokens": 18, "do_sample": True, "seed": 5, "temperature": 0.8, "top_k": 30},
        {"max_new_tokens": 15, "repetition_penalty": 1.4, "top_n_tokens": 2},
    ],
)
def test_responses_are_equal(servers, parameters):
    one, several = (generate(server, **parameters) for server in servers)
    assert [token["id"] for token in one["details"]["tokens"]] == [
        token["id"] for token in several["details"]["tokens"]
    ]
    for before, now in zip(one["details"]["tokens"], several["details"]["tokens"], strict=True):
        assert now["logprob"] == pytest.approx(before["logprob"], abs=1e-4)
    assert several["generated_text"] == one["generated_text"]
    assert several["details"]["generated_tokens"] == one["details"]["generated_tokens"]


def test_tokens_after_a_stop_string_are_neither_shown_nor_counted(servers):
    whole = generate(servers[0], max_new_tokens=16)
    for place in range(3, 7):  # a stop string at each place in a row of four tokens
        text = whole["details"]["tokens"][place]["text"]
        one, several = (generate(server, max_new_tokens=16, stop=[text]) for server in servers)
        assert one["details"]["finish_reason"] == "stop_sequence"
        assert one["details"]["generated_tokens"] <= place + 1
        for field in ("finish_reason", "generated_tokens"):
            assert several["details"][field] == one["details"][field]
        assert several["generated_text"] == one["generated_text"]


def test_a_stream_has_one_event_for_each_token(servers):
    response = post(
        servers[1], "/generate_stream", inputs=PROMPT, parameters={"max_new_tokens": 11}
    )
    events = [
        json.loads(line[5:]) for line in response.text.splitlines() if line.startswith("data:")
    ]
    assert [event["index"] for event in events] == list(range(1, 12))
    expected = generate(servers[0], max_new_tokens=11)
    assert [event["token"]["id"] for event in events] == [
        token["id"] for token in expected["details"]["tokens"]
    ]
    assert events[-1]["generated_text"] == expected["generated_text"]


def test_usage_counts_what_was_generated(servers):
    body = {"model": "tgi", "prompt": PROMPT, "max_tokens": 7, "temperature": 0.0}
    one, several = (post(server, "/v1/completions", **body).json() for server in servers)
    assert several["usage"] == one["usage"]
    assert several["choices"] == one["choices"]
