"""Requests with HTTP/1.0: no chunks, and the connection is closed unless the client asks."""

import json

import pytest

from tests.core.server.http.raw_http import exchange
from tests.core.server.http.test_upgrade_offers import BODY, SMUGGLED


def request(method, path, headers=b"", body=b""):
    if body:
        headers += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    return b"%b %b HTTP/1.0\r\n%b\r\n" % (method, path, headers) + body


@pytest.mark.parametrize(
    ("path", "end"),
    [
        (b"/generate_stream", b'"generated_text":"'),
        (b"/v1/completions", b"data: [DONE]\n\n"),
    ],
)
@pytest.mark.parametrize("headers", [b"", b"Connection: keep-alive\r\n"])
def test_a_stream_ends_where_the_connection_is_closed(null_server, path, end, headers):
    body = json.dumps(
        {"inputs": "Hello", "prompt": "Hello", "stream": True, "max_tokens": 5}
        | ({} if path == b"/v1/completions" else {"parameters": {"max_new_tokens": 5}})
    ).encode()
    responses, is_open = exchange(null_server.url, request(b"POST", path, headers, body), count=1)
    (response,) = responses
    assert (response.status, is_open) == (200, False)
    assert not {"transfer-encoding", "content-length"} & set(response.headers)
    assert response.headers["connection"] == "close"
    assert response.body.startswith(b"data:")
    assert end in response.body
    assert response.body.endswith(b"\n\n")


def test_the_connection_is_closed_by_default(null_server):
    data = request(b"POST", b"/generate", b"", BODY)
    responses, is_open = exchange(null_server.url, data + SMUGGLED, count=1)
    assert ([response.status for response in responses], is_open) == ([200], False)
    assert responses[0].headers["connection"] == "close"
    assert int(responses[0].headers["content-length"]) == len(responses[0].body)


@pytest.mark.parametrize("name", [b"keep-alive", b"Keep-Alive"])
def test_the_connection_stays_open_if_the_client_asks_for_it(null_server, name):
    data = request(b"POST", b"/generate", b"Connection: %b\r\n" % name, BODY)
    responses, is_open = exchange(null_server.url, data + data, count=2)
    assert ([response.status for response in responses], is_open) == ([200, 200], True)
    assert [response.headers["connection"] for response in responses] == ["keep-alive"] * 2


def test_http_1_1_keeps_the_connection_open_and_sends_chunks(null_server):
    data = request(b"POST", b"/generate_stream", b"", BODY).replace(b"HTTP/1.0", b"HTTP/1.1")
    responses, is_open = exchange(null_server.url, data, count=1)
    assert ([response.is_chunked for response in responses], is_open) == ([True], True)
    assert "connection" not in responses[0].headers


def test_an_expectation_is_ignored(null_server):
    data = request(b"POST", b"/generate", b"Expect: 100-continue\r\n", BODY)
    responses, _ = exchange(null_server.url, data, count=1)
    assert [response.status for response in responses] == [200]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"POST /generate HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.0"),
        (b"GET /health HTTP/2.0\r\n\r\n", "version"),
        (b"GET /health HTTP/0.9\r\n\r\n", "version"),
    ],
)
def test_what_http_1_0_has_not_is_rejected(null_server, data, word):
    responses, is_open = exchange(null_server.url, data, count=1)
    assert ([response.status for response in responses], is_open) == ([400], False)
    assert word in responses[0].json["error"]


def test_head_has_no_body(null_server):
    data = request(b"HEAD", b"/health")
    responses, is_open = exchange(null_server.url, data, count=1)
    assert ([response.status for response in responses], is_open) == ([200], False)
