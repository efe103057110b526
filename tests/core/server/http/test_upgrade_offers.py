"""A request that offers another protocol is served as HTTP/1.1, and its body is read as a body."""

import json

import pytest

from tests.core.server.http.raw_http import connect, exchange, receive, split_responses

BODY = json.dumps({"inputs": "Hello", "parameters": {"max_new_tokens": 2}}).encode()
SMUGGLED = b"GET /v1/models HTTP/1.1\r\nHost: tests\r\n\r\n"
OFFERS = [
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    b"Connection: keep-alive, upgrade\r\nUPGRADE: TLS/1.2, h2c\r\n",
    b"Upgrade: anything\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n",
    b"Upgrade: h2c\r\n",
    b"Connection: Upgrade\r\n",
]


def post(offer, body=BODY, path=b"/generate"):
    head = b"POST %b HTTP/1.1\r\nHost: tests\r\nContent-Type: application/json\r\n" % path
    return head + offer + b"Content-Length: %d\r\n\r\n" % len(body) + body


def post_chunked(offer, body=BODY):
    head = b"POST /generate HTTP/1.1\r\nHost: tests\r\nContent-Type: application/json\r\n"
    middle = len(body) // 2
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:middle], body[middle:])
    )
    return head + offer + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("build", [post, post_chunked])
def test_an_offer_is_ignored_and_the_body_is_read(null_server, offer, build):
    responses, is_open = exchange(null_server.url, build(offer), count=1)
    assert [response.status for response in responses] == [200]
    assert responses[0].json["generated_text"]
    assert "upgrade" not in responses[0].headers
    assert is_open


@pytest.mark.parametrize("offer", OFFERS)
def test_a_body_that_contains_a_request_is_not_a_request(null_server, offer):
    responses, is_open = exchange(null_server.url, post(offer, SMUGGLED), count=1)
    assert [response.status for response in responses] == [400]
    assert b"model" not in responses[0].body
    assert is_open


@pytest.mark.parametrize("offer", OFFERS)
def test_an_offer_without_body_is_ignored(null_server, offer):
    request = b"GET /health HTTP/1.1\r\nHost: tests\r\n" + offer + b"\r\n"
    responses, is_open = exchange(null_server.url, request, count=1)
    assert ([response.status for response in responses], is_open) == ([200], True)


@pytest.mark.parametrize("offer", OFFERS[:2])
def test_offers_between_pipelined_requests(null_server, offer):
    plain = b"GET /health HTTP/1.1\r\nHost: tests\r\n\r\n"
    data = post(offer) + plain + post_chunked(offer) + post(offer, SMUGGLED) + plain
    responses, is_open = exchange(null_server.url, data, count=5)
    assert [response.status for response in responses] == [200, 200, 200, 400, 200]
    assert is_open


@pytest.mark.parametrize("build", [post, post_chunked])
def test_an_offer_may_arrive_in_any_pieces(null_server, build):
    data = build(OFFERS[0])
    for cut in range(20, len(data), 29):
        responses, _ = exchange(null_server.url, data[:cut], data[cut:], count=1, pause=0.001)
        assert [response.status for response in responses] == [200], cut
    responses, _ = exchange(
        null_server.url, *(data[i : i + 1] for i in range(len(data))), count=1, pause=0
    )
    assert [response.status for response in responses] == [200]


@pytest.mark.parametrize("offer", [b"", OFFERS[0]])
def test_the_body_may_wait_for_100_continue(null_server, offer):
    data = post(offer + b"Expect: 100-continue\r\n")
    with connect(null_server.url) as connection:
        connection.sendall(data.removesuffix(BODY))
        assert receive(connection) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        received = b""
        while not (responses := split_responses(received, is_closed=False)):
            received += receive(connection)
        assert [response.status for response in responses] == [200]


def test_connect_is_rejected_and_closes_the_connection(null_server):
    request = b"CONNECT tests:80 HTTP/1.1\r\nHost: tests\r\n\r\n" + SMUGGLED
    responses, is_open = exchange(null_server.url, request, count=1)
    assert ([response.status for response in responses], is_open) == ([405], False)
    assert "CONNECT" in responses[0].json["error"]


def test_an_invalid_request_is_answered_after_the_response_in_progress(null_server):
    body = b'{"inputs":"Hello","parameters":{"max_new_tokens":20,"ignore_eos":true}}'
    data = post(b"", body, b"/generate_stream") + b"NONSENSE\r\n\r\n"
    responses, is_open = exchange(null_server.url, data, count=2)
    assert ([response.status for response in responses], is_open) == ([200, 400], False)
    assert b'"generated_text":"' in responses[0].body.replace(b" ", b"")
    assert responses[1].json["error_type"] == "validation"


def test_trailers_are_not_headers(null_server):
    """A trailer is received after the head has been checked, so it must not be read as a header."""
    data = post_chunked(b"").removesuffix(b"\r\n")
    data += b"Content-Type: text/plain\r\nAuthorization: Bearer x\r\n\r\n"
    responses, is_open = exchange(null_server.url, data, count=1)
    assert ([response.status for response in responses], is_open) == ([200], True)


def test_a_trailer_may_close_the_connection(null_server):
    data = post_chunked(b"").removesuffix(b"\r\n") + b"Connection: close\r\n\r\n"
    responses, is_open = exchange(null_server.url, data, count=1)
    assert ([response.status for response in responses], is_open) == ([200], False)
