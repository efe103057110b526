"""Raw requests and the exact number and statuses of the responses, as hyper, TGI 3's server, gives
them, or stricter. A wrong number means that bytes of one request were read as another request.
"""

import pytest

from tests.core.server.http.raw_http import connect, exchange, receive, split_responses

H = b"Host: tests\r\n"
J = b"Content-Type: application/json\r\n"
BODY = b'{"inputs":"a","parameters":{"max_new_tokens":1}}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
GET = b"GET /health HTTP/1.1\r\n" + H + b"\r\n"
INNER = b"GET /v1/models HTTP/1.1\r\n" + H + b"\r\n"  # must never be answered in a body
OPEN, CLOSED = True, False


def post(*headers, body=BODY, version=b"HTTP/1.1", target=b"/generate"):
    return b"POST %b %b\r\n" % (target, version) + H + J + b"".join(headers) + b"\r\n" + body


def get(*headers, target=b"/health", method=b"GET", version=b"HTTP/1.1"):
    return b"%b %b %b\r\n" % (method, target, version) + H + b"".join(headers) + b"\r\n"


def chunked(body):
    return post(CHUNKED, body=body)


CASES = {
    # name: (bytes, statuses, whether the connection stays open)
    "plain": (GET, [200], OPEN),
    "length": (post(LENGTH), [200], OPEN),
    "chunks": (chunked(CHUNKS), [200], OPEN),
    "header names in any case": (post(LENGTH.upper()), [200], OPEN),
    "blanks around a value": (post(LENGTH.replace(b": ", b":   ")), [200], OPEN),
    "empty lines before a request": (b"\r\n\r\n" + GET, [200], OPEN),
    "connection close": (get(b"Connection: close\r\n"), [200], CLOSED),
    "bytes after connection close": (get(b"Connection: close\r\n") + INNER, [200], CLOSED),
    "query": (get(target=b"/health?a=b&c"), [200], OPEN),
    "fragment": (get(target=b"/health#x"), [200], OPEN),
    "escaped path": (get(target=b"/he%61lth"), [200], OPEN),
    "unknown path": (get(target=b"/nothing"), [404], OPEN),
    "dots are not resolved": (get(target=b"/x/../health"), [404], OPEN),
    "two slashes": (get(target=b"//health"), [404], OPEN),
    "unknown method": (get(method=b"PURGE"), [405], OPEN),
    "unknown method with body": (
        b"PURGE /health HTTP/1.1\r\n" + H + b"Content-Length: %d\r\n\r\n" % len(INNER) + INNER,
        [405],
        OPEN,
    ),
    # Two lengths, or a length and chunks
    "length and chunks": (post(LENGTH, CHUNKED, body=CHUNKS), [400], CLOSED),
    "chunks and length": (post(CHUNKED, LENGTH, body=CHUNKS), [400], CLOSED),
    "chunks, short length and a request": (
        post(CHUNKED, b"Content-Length: 4\r\n", body=b"0\r\n\r\n" + INNER),
        [400],
        CLOSED,
    ),
    "two lengths": (post(LENGTH, b"Content-Length: 5\r\n"), [400], CLOSED),
    "two equal lengths": (post(LENGTH, LENGTH), [400], CLOSED),
    "lengths in a list": (post(b"Content-Length: 48, 48\r\n"), [400], CLOSED),
    "negative length": (post(b"Content-Length: -1\r\n"), [400], CLOSED),
    "signed length": (post(b"Content-Length: +48\r\n"), [400], CLOSED),
    "hexadecimal length": (post(b"Content-Length: 0x30\r\n"), [400], CLOSED),
    "empty length": (post(b"Content-Length: \r\n"), [400], CLOSED),
    "length with blanks inside": (post(b"Content-Length: 4 8\r\n"), [400], CLOSED),
    "length that overflows": (post(b"Content-Length: 18446744073709551664\r\n"), [400], CLOSED),
    "length of many digits": (post(b"Content-Length: " + b"9" * 400 + b"\r\n"), [400], CLOSED),
    # Encodings
    "encoding in capitals": (
        post(CHUNKED.replace(b"chunked", b"Chunked"), body=CHUNKS),
        [200],
        OPEN,
    ),
    "two encodings": (post(CHUNKED, CHUNKED, body=CHUNKS), [400], CLOSED),
    "identity": (post(b"Transfer-Encoding: identity\r\n", body=CHUNKS), [400], CLOSED),
    "encoding after chunked": (
        post(b"Transfer-Encoding: chunked, gzip\r\n", body=CHUNKS),
        [400],
        CLOSED,
    ),
    "encoding in quotes": (post(b'Transfer-Encoding: "chunked"\r\n', body=CHUNKS), [400], CLOSED),
    "encoding with another letter": (
        post(b"Transfer-Encoding: xchunked\r\n", body=CHUNKS),
        [400],
        CLOSED,
    ),
    "blank before the colon": (
        post(b"Transfer-Encoding : chunked\r\n", body=CHUNKS),
        [400],
        CLOSED,
    ),
    "tab before the colon": (post(b"Content-Length\t: 48\r\n"), [400], CLOSED),
    "control character in an encoding": (
        post(b"Transfer-Encoding: \x0bchunked\r\n", body=CHUNKS),
        [400],
        CLOSED,
    ),
    # Lines
    "folded header": (get(b"X: a\r\n b\r\n"), [400], CLOSED),
    "folded length": (post(b"Content-Length:\r\n 48\r\n"), [400], CLOSED),
    "folded first line": (b"GET /health HTTP/1.1\r\n X: a\r\n\r\n", [400], CLOSED),
    "bare LF": (GET.replace(b"\r\n", b"\n"), [400], CLOSED),
    "bare LF after a header": (get(b"X: a\nY: b\r\n"), [400], CLOSED),
    "bare CR in a header": (get(b"X: a\rY: b\r\n"), [400], CLOSED),
    "zero byte in a value": (get(b"X: a\x00b\r\n"), [400], CLOSED),
    "zero byte in a name": (get(b"X\x00: a\r\n"), [400], CLOSED),
    "no colon": (get(b"Nonsense\r\n"), [400], CLOSED),
    "empty name": (get(b": a\r\n"), [400], CLOSED),
    "parentheses in a name": (get(b"X(a): b\r\n"), [400], CLOSED),
    "no version": (b"GET /health\r\n\r\n", [400], CLOSED),
    "unknown version": (get(version=b"HTTP/3.7"), [400], CLOSED),
    "version in small letters": (get(version=b"http/1.1"), [400], CLOSED),
    "blank in the target": (get(target=b"/he alth"), [400], CLOSED),
    "control character in the target": (get(target=b"/he\x01alth"), [400], CLOSED),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 64, [400], CLOSED),
    "HTTP/2 without upgrade": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400], CLOSED),
    # Chunks
    "chunk extension": (chunked(b"30;a=b;c\r\n" + BODY + b"\r\n0;d\r\n\r\n"), [200], OPEN),
    "chunk size with zeros": (chunked(b"000030\r\n" + BODY + b"\r\n000\r\n\r\n"), [200], OPEN),
    "trailers": (chunked(CHUNKS[:-2] + b"X: a\r\n\r\n"), [200], OPEN),
    "a request in a chunk": (
        chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER)),
        [400],
        OPEN,
    ),
    "chunk size that overflows": (
        chunked(b"10000000000000030\r\n" + BODY + b"\r\n"),
        [400],
        CLOSED,
    ),
    "negative chunk size": (chunked(b"-30\r\n" + BODY + b"\r\n0\r\n\r\n"), [400], CLOSED),
    "chunk size with 0x": (chunked(b"0x30\r\n" + BODY + b"\r\n0\r\n\r\n"), [400], CLOSED),
    "no chunk size": (chunked(b"\r\n" + BODY), [400], CLOSED),
    "chunk longer than its size": (chunked(b"2\r\n" + BODY + b"\r\n0\r\n\r\n"), [400], CLOSED),
    "bare LF after a chunk size": (chunked(b"30\n" + BODY + b"\r\n0\r\n\r\n"), [400], CLOSED),
    "bare LF in an extension": (chunked(b"30;a\n" + BODY + b"\r\n0\r\n\r\n"), [400], CLOSED),
    "no line end after a chunk": (chunked(b"30\r\n" + BODY + b"0\r\n\r\n"), [400], CLOSED),
    # Bodies where none is expected
    "GET with a body": (get(b"Content-Length: %d\r\n" % len(INNER)) + INNER, [200], OPEN),
    "GET with chunks": (get(CHUNKED) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER), [200], OPEN),
    "body after the length": (post(LENGTH, body=BODY + INNER), [200, 200], OPEN),
    "body without length": (post(body=b"") + INNER, [400, 200], OPEN),
    "too large a body": (
        post(b"Content-Length: 2100000\r\n", body=b" " * 2_100_000) + INNER,
        [413, 200],
        OPEN,
    ),
    "wrong type with a body": (
        b"POST /generate HTTP/1.1\r\n" + H + b"Content-Length: %d\r\n\r\n" % len(INNER) + INNER,
        [415],
        OPEN,
    ),
    # Targets
    "absolute target": (get(target=b"http://tests/health"), [200], OPEN),
    "absolute target with another host": (get(target=b"http://other:1/health"), [200], OPEN),
    "absolute target without path": (get(target=b"http://tests"), [200], OPEN),
    "asterisk": (get(method=b"OPTIONS", target=b"*"), [200], OPEN),
    "authority": (get(target=b"tests:80"), [400], CLOSED),
    "relative": (get(target=b"health"), [400], CLOSED),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", [200], OPEN),
    # Pipelining
    "two requests": (GET + GET, [200, 200], OPEN),
    "mixed requests": (GET + post(LENGTH) + chunked(CHUNKS) + GET, [200] * 4, OPEN),
    "500 requests": (GET * 500, [200] * 500, OPEN),
    "a request and nonsense": (GET + b"NONSENSE\r\n\r\n", [200, 400], CLOSED),
    "generations and nonsense": (post(LENGTH) * 2 + b"\x00\x01\x02", [200, 200, 400], CLOSED),
    "close in the middle": (GET + get(b"Connection: close\r\n") + INNER, [200, 200], CLOSED),
    "a request behind an invalid body": (
        GET + chunked(b"zz\r\n" + BODY) + INNER,
        [200, 400],
        CLOSED,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_responses_to_raw_bytes(null_server, name):
    data, statuses, is_open = CASES[name]
    responses, stays_open = exchange(null_server.url, data, count=len(statuses))
    assert [response.status for response in responses] == statuses
    assert stays_open == is_open
    assert all(response.json for response in responses if response.status == 400 and not is_open)


@pytest.mark.parametrize(
    "name", ["length", "chunks", "chunk extension", "trailers", "mixed requests", "two lengths"]
)
def test_the_pieces_do_not_matter(null_server, name):
    data, statuses, is_open = CASES[name]
    pieces = [data[start : start + 7] for start in range(0, len(data), 7)]
    responses, stays_open = exchange(null_server.url, *pieces, count=len(statuses), pause=0.001)
    assert ([response.status for response in responses], stays_open) == (statuses, is_open)


@pytest.mark.parametrize(
    "data", [b"", b"GET", GET[:-2], post(LENGTH, body=b"{"), chunked(b"30\r\n{"), GET[:-4]]
)
def test_an_incomplete_request_has_no_response(null_server, data):
    with connect(null_server.url) as connection:
        connection.sendall(data)
        connection.shutdown(1)
        assert receive(connection) == b""


def test_a_reset_in_the_middle_of_a_stream_ends_it(null_server):
    dropped = null_server.count_failures("dropped")
    body = b'{"inputs":"a","parameters":{"max_new_tokens":1000,"ignore_eos":true}}'
    stream = post(b"Content-Length: %d\r\n" % len(body), body=body, target=b"/generate_stream")
    for _ in range(20):
        with connect(null_server.url) as connection:
            connection.sendall(stream + stream + GET)  # the later requests are queued
            assert receive(connection).startswith(b"HTTP/1.1 200")
    assert null_server.count_failures("dropped") <= dropped + 40
    responses, _ = exchange(null_server.url, post(LENGTH), count=1)
    assert [response.status for response in responses] == [200]


def test_the_reader_of_the_tests_is_strict():
    broken = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab"
    with pytest.raises(AssertionError):
        split_responses(broken, is_closed=True)
