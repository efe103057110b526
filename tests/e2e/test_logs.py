"""JSON logs and gRPC traces of a running server. Neither contains any text from a user."""

import json

import httpx
import pytest

from tests.collector import grpc_collector
from tests.live_server import running_server

CANARY = "canary-7f3a"


def requests():
    """Valid and invalid requests that contain the canary in every field that accepts free text."""
    message = {"role": "user", "content": CANARY}
    short = {"max_new_tokens": 2}
    yield "/generate", {"inputs": CANARY, "parameters": short}
    yield "/generate_stream", {"inputs": CANARY, "parameters": {**short, "stop": [CANARY]}}
    yield "/", {"inputs": CANARY, "parameters": {"return_full_text": True, **short}, "stream": True}
    yield "/tokenize", {"inputs": CANARY}
    yield "/generate", {"inputs": CANARY * 999, "parameters": short}
    yield "/generate", {"inputs": CANARY, "parameters": {"adapter_id": CANARY}}
    yield "/generate", {"inputs": CANARY, "parameters": {"stop": [CANARY] * 9}}
    yield (
        "/generate",
        {"inputs": CANARY, "parameters": {"grammar": {"type": "regex", "value": CANARY}}},
    )
    yield "/v1/completions", {"prompt": CANARY, "max_tokens": 2, "guided_regex": f"({CANARY}"}
    yield "/v1/completions", {"model": CANARY, "prompt": CANARY, "max_tokens": 2, "user": CANARY}
    yield "/v1/completions", {"prompt": CANARY, "suffix": CANARY}
    yield (
        "/v1/chat/completions",
        {"messages": [message], "max_tokens": 2, "stream": True, "stop": CANARY},
    )
    yield "/v1/chat/completions", {"messages": [{**message, "role": CANARY}], "max_tokens": 2}
    yield (
        "/v1/chat/completions",
        {"messages": [message], "tools": [{"type": "function", "function": {"name": CANARY}}]},
    )
    yield "/v1/chat/completions", {"messages": [message], "chat_template_kwargs": {"x": CANARY}}
    yield "/v1/chat/completions", {"messages": [message], "reasoning_effort": CANARY}
    yield "/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": CANARY}]}]}
    yield f"/{CANARY}", {}


@pytest.fixture(scope="module")
def log_and_spans(tmp_path_factory, tiny_model):
    """The log and the spans of a server after all requests, at log level `trace`."""
    log = tmp_path_factory.mktemp("logs") / "log"
    with pytest.MonkeyPatch.context() as patch, grpc_collector() as received:
        patch.setenv("LOG_LEVEL", "trace")
        arguments = [
            "--json-output",
            "--otlp-endpoint",
            received.url,
            "--otlp-service-name",
            "canaries",
        ]
        headers = {"authorization": f"Bearer {CANARY}"}
        with (
            running_server(tiny_model, "null", log, *arguments) as server,
            httpx.Client(base_url=server.url, timeout=60, headers=headers) as client,
        ):
            statuses = [client.post(path, json=body).status_code for path, body in requests()]
            client.post(
                "/generate",
                content=f'{{"inputs": "{CANARY}'.encode(),
                headers={"content-type": "application/json"},
            )
            client.post("/generate", content=CANARY.encode(), headers={"content-type": CANARY})
            client.get(f"/info?{CANARY}", headers={"traceparent": CANARY})
        assert {200, 404, 422} <= set(statuses)
        assert max(statuses) < 500
    return log.read_text(), received


def test_log_lines_are_json(log_and_spans):
    lines = [json.loads(line) for line in log_and_spans[0].splitlines()]
    assert len(lines) > 5
    assert all({"timestamp", "level", "message", "target"} <= set(line) for line in lines)
    assert "Connected" in {line["message"] for line in lines}


def test_no_user_text_is_logged(log_and_spans):
    assert CANARY not in log_and_spans[0]


def test_no_span_contains_user_text(log_and_spans):
    received = log_and_spans[1]
    names = {span.name for span in received.spans()}
    assert {
        "generate",
        "generate_stream",
        "compat_generate",
        "completions",
        "chat_completions",
        "infer",
    } <= names
    assert received.services() == {"canaries"}
    assert not [body for body in received.bodies if CANARY.encode() in body]
