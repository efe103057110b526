"""Requests that are rejected below the application, and the schemas of their errors."""

import contextlib

import pytest

from tests.core.server.http.conftest import MAX_CONNECTIONS
from tests.core.server.http.raw_http import connect, exchange, open_stream, receive, split_responses

CHAT, MESSAGES, GENERATE = b"/v1/chat/completions", b"/v1/messages", b"/generate"
ANTHROPIC = b"anthropic-version: 2023-06-01\r\n"
OPENAI_TYPES = {503: "server_error"}
ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    405: "invalid_request_error",
    408: "timeout_error",
    414: "request_too_large",
    431: "request_too_large",
    529: "overloaded_error",
}


def post(path, *headers, end=b"\r\n"):
    start = b"POST %b HTTP/1.1\r\nHost: tests\r\nContent-Type: application/json\r\n" % path
    return start + b"".join(headers) + end


# name: (status, a function of the path that returns the bytes)
REJECTED = {
    "invalid header": (400, lambda path: post(path, b"a b: c\r\n")),
    "invalid length": (400, lambda path: post(path, b"Content-Length: x\r\n")),
    "invalid version": (400, lambda path: b"POST %b HTTP/3.0\r\n\r\n" % path),
    "invalid chunk": (400, lambda path: post(path, b"Transfer-Encoding: chunked\r\n") + b"x\r\n"),
    "chunks in HTTP/1.0": (
        400,
        lambda path: b"POST %b HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" % path,
    ),
    "long target": (414, lambda path: post(path + b"?" + b"x" * 70_000)),
    "long target in many pieces": (414, lambda path: post(path + b"?" + b"x" * 500_000)),
    "long headers": (431, lambda path: post(path, b"x: %b\r\n" % (b"x" * 70_000))),
    "many headers": (431, lambda path: post(path, *[b"x: y\r\n"] * 101)),
    "endless header": (431, lambda path: post(path, b"x" * 500_000, end=b"")),
}
SLOW = {
    "head": lambda path: post(path, end=b""),
    "body": lambda path: post(path, b"Content-Length: 9\r\n") + b"{",
}


def check_native(response, status):
    assert list(response.json) == ["error", "error_type"]
    assert response.json["error_type"] == ("overloaded" if status == 503 else "validation")
    assert response.status == status
    return response.json["error"]


def check_openai(response, status):
    assert list(response.json) == ["error", "error_type"]
    assert list(response.json["error"]) == ["message", "type", "param", "code"]
    kind = OPENAI_TYPES.get(status, "invalid_request_error")
    assert response.json["error"]["type"] == kind
    assert response.status == status
    return response.json["error"]["message"]


def check_anthropic(response, status):
    status = 529 if status == 503 else status
    assert (list(response.json), response.json["type"]) == (["type", "error"], "error")
    assert response.json["error"].keys() == {"type", "message"}
    assert response.json["error"]["type"] == ANTHROPIC_TYPES[status]
    assert response.status == status
    return response.json["error"]["message"]


CHECKS = {
    GENERATE: check_native,
    b"/": check_native,
    b"/v10/messages": check_native,
    CHAT: check_openai,
    b"http://host:80/v1/responses": check_openai,
    b"/v1/comple%74ions": check_openai,
    b"/v1/models": check_openai,
    MESSAGES: check_anthropic,
    b"/v1/m%65ssages": check_anthropic,
    b"/v1/messages/count_tokens": check_anthropic,
}


def check(response, path, status):
    assert response.headers["content-type"] == "application/json"
    assert response.headers["connection"] == "close"
    assert len(CHECKS[path](response, status)) > 10


@pytest.mark.parametrize("path", CHECKS)
@pytest.mark.parametrize("name", REJECTED)
def test_an_invalid_request_gets_an_error_in_the_schema_of_its_path(null_server, name, path):
    status, data = REJECTED[name]
    [response], is_open = exchange(null_server.url, data(path), count=1)
    assert not is_open
    check(response, path, status)


def test_a_shared_path_has_the_schema_of_the_client(null_server):
    data = post(b"/v1/models", ANTHROPIC, b"Content-Length: x\r\n")
    [response], _ = exchange(null_server.url, data, count=1)
    check_anthropic(response, 400)


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02\x00\x01", b"GET \x00", b"GET /v1/\xff \x00", b"\r\n" * 100_000]
)
def test_an_error_before_the_path_has_the_schema_of_tgi(null_server, data):
    [response], _ = exchange(null_server.url, data, count=1)
    check_native(response, response.status)


@pytest.mark.parametrize("path", [GENERATE, MESSAGES])
def test_a_rejection_after_a_request_does_not_use_its_path(null_server, path):
    """The path belongs to the request before the invalid bytes."""
    earlier = b"GET /v1/models HTTP/1.1\r\nHost: tests\r\n\r\n"
    for data, status, expected in (
        (post(path, b"a b: c\r\n"), 400, path),
        (b"\r\n" * 100_000, 431, GENERATE),
    ):
        responses, _ = exchange(null_server.url, earlier, data, count=2)
        assert [response.status for response in responses] == [200, status]
        check(responses[1], expected, status)


@pytest.mark.parametrize("path", [GENERATE, CHAT, MESSAGES])
@pytest.mark.parametrize("name", SLOW)
def test_a_slow_client_gets_an_error_in_the_schema_of_its_path(strict_server, name, path):
    with connect(strict_server.url) as connection:
        connection.sendall(SLOW[name](path))
        received = b""
        while part := receive(connection):
            received += part
    [response] = split_responses(received, is_closed=True)
    check(response, path, 408)


@pytest.mark.parametrize("path", [GENERATE, CHAT, MESSAGES])
def test_a_full_server_responds_in_the_schema_of_the_path(strict_server, path):
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(open_stream(strict_server)) for _ in range(MAX_CONNECTIONS)]
        for stream in streams:
            assert receive(stream).startswith(b"HTTP/1.1 200")
        data = post(path, b"Content-Length: 2\r\n") + b"{}"
        [response], _ = exchange(strict_server.url, data, count=1)
    check(response, path, 503)
