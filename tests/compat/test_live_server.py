"""The server over a real socket: client disconnects, concurrency slots, invalid and oversized
bodies, and the bytes of a stream.
"""

import json
import time

import httpx
import pytest

from tests.live_server import running_server

STREAM = {
    "inputs": "The quick brown fox",
    "parameters": {"max_new_tokens": 400, "ignore_eos": True},
}
WAIT_SECONDS = 30.0


def wait_until(condition):
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end, "the condition was never met"
        time.sleep(0.02)


def assert_serves(server):
    response = httpx.post(
        f"{server.url}/generate", json={"inputs": "Hello", "parameters": {"max_new_tokens": 2}}
    )
    assert response.status_code == 200


@pytest.fixture(scope="module")
def narrow_server(tmp_path_factory, tiny_model, tgi_backend):
    """A server that runs one request at a time, with steps slow enough that a client can disconnect
    during a request.
    """
    folder = tmp_path_factory.mktemp("narrow")
    arguments = ["--max-concurrent-requests", "1"]
    if tgi_backend == "null":
        script = folder / "script.json"
        script.write_text(json.dumps({"step_seconds": 0.01}))
        arguments += ["--null-script", str(script)]
    with running_server(tiny_model, tgi_backend, folder / "server.log", *arguments) as server:
        yield server


LONG = {
    "stream": True,
    "ignore_eos": True,
    "messages": [{"role": "user", "content": "The quick brown fox"}],
}


@pytest.mark.parametrize(
    ("path", "body", "first_line"),
    [
        ("/generate_stream", STREAM, 'data: {"index":1,'),
        ("/v1/chat/completions", LONG, 'data: {"id":"chatcmpl-'),
        (
            "/v1/responses",
            {"input": "The quick brown fox", "stream": True, "ignore_eos": True},
            "event: response.created",
        ),
        ("/v1/messages", LONG | {"max_tokens": 400}, "event: message_start"),
    ],
)
def test_a_disconnect_during_a_stream_frees_the_slot(narrow_server, path, body, first_line):
    dropped = narrow_server.count_failures("dropped")
    with httpx.stream("POST", f"{narrow_server.url}{path}", json=body) as stream:
        # The connection closes when this iterator is deleted, so it needs a name.
        lines = stream.iter_lines()
        assert next(lines).startswith(first_line)
        rejected = httpx.post(f"{narrow_server.url}/generate", json=STREAM)
        assert rejected.status_code == 429
        assert rejected.json() == {"error": "Model is overloaded", "error_type": "overloaded"}
    wait_until(lambda: narrow_server.count_failures("dropped") == dropped + 1)
    assert_serves(narrow_server)


def test_a_disconnect_before_a_response_frees_the_slot(narrow_server):
    dropped = narrow_server.count_failures("dropped")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{narrow_server.url}/generate", json=STREAM, timeout=0.3)
    wait_until(lambda: narrow_server.count_failures("dropped") == dropped + 1)
    assert_serves(narrow_server)


@pytest.mark.parametrize(
    "path",
    [
        "/generate",
        "/generate_stream",
        "/",
        "/tokenize",
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/responses",
        "/chat_tokenize",
        "/vertex",
        "/v2/models/m/versions/1/infer",
    ],
)
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"\xff\xfe", 400),
        (b"null", 422),
        (b"[1,", 422),
        (b'"' + b"a" * 100_000 + b'"', 422),
        (b'{"a":' * 50_000, 400),
        (b'{"inputs":3,"prompt":3,"messages":3,"input":3,"instances":3,"id":3}', 422),
    ],
)
def test_invalid_bodies_are_rejected_and_the_server_stays_up(live_server, path, body, status):
    response = httpx.post(
        f"{live_server.url}{path}", content=body, headers={"content-type": "application/json"}
    )
    assert response.status_code == status
    is_text = not path.startswith("/v1/")
    kind = "text/plain; charset=utf-8" if is_text else "application/json"
    assert response.headers["content-type"] == kind
    assert_serves(live_server)


@pytest.mark.parametrize("num_bytes", [2_000_001, 20_000_000])
def test_an_oversized_body_is_rejected(live_server, num_bytes):
    body = b'{"inputs":"' + b"a" * num_bytes + b'"}'
    try:
        response = httpx.post(
            f"{live_server.url}/generate",
            content=body,
            headers={"content-type": "application/json"},
        )
    except httpx.WriteError:  # The server may close the connection before it reads the whole body.
        pass
    else:
        assert response.status_code == 413
        assert response.text == "Failed to buffer the request body: length limit exceeded"
    assert_serves(live_server)


def test_the_bytes_of_a_stream(live_server):
    body = {"inputs": "The quick brown fox", "parameters": {"max_new_tokens": 3, "details": True}}
    response = httpx.post(f"{live_server.url}/generate_stream", json=body)
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["transfer-encoding"] == "chunked"
    events = response.text.split("\n\n")
    assert events.pop() == ""
    assert all(event.startswith('data: {"index":') and "\n" not in event for event in events)
    assert len(events) == 3


def test_head_returns_no_body(live_server):
    response = httpx.head(f"{live_server.url}/info")
    assert (response.status_code, response.content) == (200, b"")
