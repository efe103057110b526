"""Raw bytes over a socket, and a strict reader of the responses."""

import contextlib
import json
import socket
import time
import urllib.parse
from dataclasses import dataclass, field

WAIT_SECONDS = 30.0
ENDLESS = {
    "inputs": "Hello",
    "parameters": {"max_new_tokens": 60_000, "ignore_eos": True, "top_n_tokens": 5},
}
SENTINEL = b"GET /sentinel HTTP/1.1\r\nHost: tests\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class RawResponse:
    """One response. `is_chunked` says how the end of the body was marked."""

    status: int
    version: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_chunked: bool = False

    @property
    def json(self):
        return json.loads(self.body)


def connect(url):
    """Open a connection to the server."""
    parts = urllib.parse.urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), WAIT_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def open_stream(server, *, receive_buffer=None):
    """Start an endless stream and read nothing of it."""
    connection = connect(server.url)
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    body = json.dumps(ENDLESS).encode()
    data = b"POST /generate_stream HTTP/1.1\r\nContent-Type: application/json\r\n"
    connection.sendall(data + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    return connection


def exchange(url, *pieces, count, pause=0.02):
    """Send the pieces one after another and return `(responses, is_open)`.

    After `count` responses the client sends one more request on the same connection. `is_open` is
    whether the server answers that request. Any response in between is returned too, because
    responses have the order of the requests.
    """
    with connect(url) as connection:
        received = b""
        try:
            for index, piece in enumerate(pieces):
                if index:
                    time.sleep(pause)
                connection.sendall(piece)
        except OSError:
            pass  # the server has closed the connection; its responses can still be read
        while len(split_responses(received, is_closed=False)) < count:
            part = receive(connection)
            if not part:
                return split_responses(received, is_closed=True), False
            received += part
        with contextlib.suppress(OSError):
            connection.sendall(SENTINEL)
        while part := receive(connection):
            received += part
    responses = split_responses(received, is_closed=True)
    if len(responses) > count and responses[-1].status == 404:
        return responses[:-1], True
    return responses, False


def receive(connection):
    """Return the next bytes, or `b""` if the server has closed the connection."""
    try:
        return connection.recv(1 << 16)
    except ConnectionError:
        return b""


def split_responses(received, *, is_closed):
    """Split the bytes into responses. An incomplete response at the end is left out, unless the
    server has closed the connection: then it is an error. Interim responses are left out.
    """
    responses = []
    while received:
        parsed = _read_response(received, is_closed)
        if parsed is None:
            assert not is_closed, f"incomplete response: {received[:300]!r}"
            break
        response, received = parsed
        if response.status >= 200:
            responses.append(response)
    return responses


def _read_response(received, is_closed):
    head, blank, rest = received.partition(b"\r\n\r\n")
    if not blank:
        return None
    status_line, *lines = head.decode("latin-1").split("\r\n")
    version, status, _ = status_line.split(" ", 2)
    assert version in ("HTTP/1.0", "HTTP/1.1"), status_line
    headers = {}
    for line in lines:
        name, colon, value = line.partition(": ")
        assert colon and name.lower() not in headers, line
        headers[name.lower()] = value
    if int(status) < 200:
        return RawResponse(int(status), version, headers), rest
    is_chunked = headers.get("transfer-encoding") == "chunked"
    if is_chunked:
        assert "content-length" not in headers
        body = _read_chunks(rest)
    elif "content-length" in headers:
        length = int(headers["content-length"])
        body = (rest[:length], rest[length:]) if len(rest) >= length else None
    else:
        body = (rest, b"") if is_closed else None
    if body is None:
        return None
    return RawResponse(int(status), version, headers, body[0], is_chunked), body[1]


def _read_chunks(rest):
    parts = []
    while True:
        size, newline, rest = rest.partition(b"\r\n")
        if not newline:
            return None
        length = int(size, 16)
        if len(rest) < length + 2:
            return None
        assert rest[length : length + 2] == b"\r\n"
        parts.append(rest[:length])
        rest = rest[length + 2 :]
        if not length:
            return b"".join(parts), rest
