"""Many hostile requests and disconnects: no server error, no request that hangs, and no leak of
memory, file descriptors, concurrency slots or engine sequences.

The long tests send 20,000 requests and 10,000 disconnects. The other tests send a small number.
"""

import contextlib
import json
import random
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

import httpx
import psutil
import pytest

from tests.core.server.http.test_loop_lag import BODIES
from tests.live_server import running_server

NUM_SLOTS = 16
REQUEST_SECONDS = 30
OVERLOAD = (503, 529)
MAX_GROWTH_BYTES = 64 << 20
CHAT = {
    "messages": [{"role": "user", "content": "fox"}, {"role": "assistant", "content": "a"}],
    "max_tokens": 4,
    "temperature": 0.5,
    "stream": True,
}
NATIVE = {
    "inputs": "fox",
    "parameters": {"max_new_tokens": 4, "stop": ["a"], "details": True, "top_k": 3, "seed": 1},
}
INFER = {
    "id": "1",
    "outputs": [{"name": "text"}],
    "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [97, 98]}],
    "parameters": {"max_new_tokens": 4},
}
VALID = {
    "/": {**NATIVE, "stream": True},
    "/vertex": {"instances": [NATIVE]},
    "/v1/completions": {"prompt": ["fox", "a"], "max_tokens": 4, "n": 2, "logprobs": 1},
    "/v1/chat/completions": {**CHAT, "logprobs": True, "logit_bias": {"5": 1}},
    "/chat_tokenize": CHAT,
    "/v1/messages": CHAT,
    "/v1/messages/count_tokens": CHAT,
    "/v1/responses": {"input": CHAT["messages"], "max_output_tokens": 4, "stream": True},
    "/v2/models/tiny/versions/1/infer": INFER,
}
PATHS = {path: VALID.get(path, NATIVE) for path in BODIES}
HOSTILE = [
    None,
    True,
    -1,
    0,
    2**63,
    2**64,
    -0.0,
    1e308,
    1.5,
    "",
    "\u0000",
    "\U0001f600" * 50,
    "a" * 5000,
    [],
    [[]],
    {},
    {"": None},
    [1] * 500,
    {"type": "text"},
    [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/"}}],
]
BYTES = [b"\x00", b"\xff", b'"', b"{", b"]", b",", b"\\u", b"\\ud800", b"1e999", b"[" * 200]


def places(value, path=()):
    """The paths of all values inside a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else items:
        yield from places(inner, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def mutated(draws, value):
    """A body with one or two changed values, and sometimes with changed bytes."""
    for _ in range(draws.choice((1, 1, 2))):
        value = replaced(value, draws.choice(list(places(value))), draws.choice(HOSTILE))
    body = json.dumps(value, ensure_ascii=draws.random() < 0.5).encode()
    if draws.random() < 0.2 and body:
        place = draws.randrange(len(body))
        body = body[:place] + draws.choice([b"", *BYTES]) + body[place + draws.randrange(2) :]
    return body[: draws.randrange(len(body) + 1)] if draws.random() < 0.05 else body


class Resources:
    """The resources that the processes of a server use."""

    def __init__(self, server):
        self._url = server.url
        self._front = psutil.Process(server.pid)

    def settle(self):
        """Wait until the server has no sequence, and check that all concurrency slots are free."""
        deadline = time.monotonic() + 60
        while self._gauge("tgi_batch_current_size") or self._gauge("tgi_queue_size"):
            assert time.monotonic() < deadline, "the engine still has sequences"
            time.sleep(0.1)
        body = {"prompt": "fox", "max_tokens": 2, "n": NUM_SLOTS}
        while (response := httpx.post(f"{self._url}/v1/completions", json=body)).is_error:
            assert time.monotonic() < deadline, response.text
            time.sleep(0.1)

    def used(self):
        """The memory in bytes and the number of descriptors of all processes of the server."""
        processes = [self._front, *self._front.children(recursive=True)]
        return (
            sum(process.memory_info().rss for process in processes),
            sum(process.num_fds() for process in processes),
        )

    def _gauge(self, name):
        lines = httpx.get(f"{self._url}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


@contextlib.contextmanager
def no_leak(server, record_property):
    """Check that the block leaks nothing. Before it, the server has handled other requests."""
    resources = Resources(server)
    resources.settle()
    memory, descriptors = resources.used()
    yield
    resources.settle()
    deadline = time.monotonic() + 30
    while (used := resources.used())[1] > descriptors and time.monotonic() < deadline:
        time.sleep(0.5)
    record_property("growth", used[0] - memory)
    print(f"memory grew by {used[0] - memory} bytes, descriptors {descriptors} -> {used[1]}")
    assert used[1] <= descriptors
    assert used[0] - memory < MAX_GROWTH_BYTES


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_model, tgi_backend):
    log = tmp_path_factory.mktemp("endurance") / "server.log"
    limits = ("--max-total-tokens", "64", "--max-concurrent-requests", str(NUM_SLOTS))
    with running_server(tiny_model, tgi_backend, log, *limits) as running:
        yield running
    assert b"Traceback" not in log.read_bytes()


def fuzz(server, num_requests, seed):
    """Send mutated bodies to all routes. Returns the number of responses by status."""
    statuses = {}
    draws = random.Random(seed)
    bodies = ((path, mutated(draws, PATHS[path])) for path in cycle(PATHS))
    with httpx.Client(timeout=REQUEST_SECONDS) as client, ThreadPoolExecutor(4) as threads:

        def send(case):
            path, body = case
            headers = {"content-type": "application/json"}
            response = client.post(f"{server.url}{path}", content=body, headers=headers)
            return path, body, response

        for start in range(0, num_requests, 200):
            size = min(200, num_requests - start)
            for path, body, response in threads.map(send, [next(bodies) for _ in range(size)]):
                status = response.status_code
                assert status < 500 or status in OVERLOAD, (path, body, response.text)
                statuses[status] = statuses.get(status, 0) + 1
    print(f"{num_requests} requests: {statuses}")
    return statuses


def test_mutated_requests_cause_no_server_error(server, record_property):
    fuzz(server, 300, seed=1)
    with no_leak(server, record_property):
        statuses = fuzz(server, 700, seed=2)
    assert {200, 400, 422} <= set(statuses)


@pytest.mark.long
def test_twenty_thousand_mutated_requests_leak_nothing(server, record_property):
    fuzz(server, 2_000, seed=3)
    with no_leak(server, record_property):
        statuses = fuzz(server, 20_000, seed=4)
    assert {200, 400, 422} <= set(statuses)


class Connection:
    """A connection to the server that ends in an unusual way."""

    def __init__(self, server):
        self._address = ("127.0.0.1", int(server.url.rpartition(":")[2]))

    def run(self, path, kind):
        body = json.dumps(PATHS[path]).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n".encode()
        whole = head + b"content-length: %d\r\n\r\n" % len(body) + body
        with socket.socket() as connection:
            connection.settimeout(REQUEST_SECONDS)
            if kind == "tiny window":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            connection.connect(self._address)
            DISCONNECTS[kind](connection, head, body, whole)


def send_and_reset(connection, whole):
    connection.sendall(whole)
    # With this option, `close` sends a reset.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def send_and_read(connection, data, num_bytes):
    connection.sendall(data)
    connection.recv(num_bytes)


def send_and_half_close(connection, whole):
    connection.sendall(whole)
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(1 << 16):
        pass


DISCONNECTS = {
    "no byte": lambda connection, head, body, whole: None,
    "in the request line": lambda connection, head, body, whole: connection.sendall(head[:6]),
    "in the headers": lambda connection, head, body, whole: connection.sendall(head),
    "before the body": lambda connection, head, body, whole: connection.sendall(
        whole[: -len(body)]
    ),
    "in the body": lambda connection, head, body, whole: connection.sendall(whole[:-3]),
    "after the body": lambda connection, head, body, whole: connection.sendall(whole),
    "in the chunks": lambda connection, head, body, whole: connection.sendall(
        head + b"transfer-encoding: chunked\r\n\r\n5\r\n" + body[:3]
    ),
    "after the first byte": lambda connection, head, body, whole: send_and_read(
        connection, whole, 1
    ),
    "after the first part": lambda connection, head, body, whole: send_and_read(
        connection, whole, 4096
    ),
    "reset": lambda connection, head, body, whole: send_and_reset(connection, whole),
    "half-closed": lambda connection, head, body, whole: send_and_half_close(connection, whole),
    "pipelined": lambda connection, head, body, whole: connection.sendall(whole * 5),
    "pipelined and read": lambda connection, head, body, whole: send_and_read(
        connection, whole * 3, 100
    ),
    "invalid": lambda connection, head, body, whole: connection.sendall(b"\x00\x01" + whole),
    "tiny window": lambda connection, head, body, whole: send_and_read(connection, whole, 1),
}


def disconnect(server, num_connections):
    connection, paths, kinds = Connection(server), list(PATHS), list(DISCONNECTS)
    with ThreadPoolExecutor(4) as threads:

        def run(number):
            # Resets can arrive while the client still writes.
            with contextlib.suppress(ConnectionError):
                connection.run(paths[number // len(kinds) % len(paths)], kinds[number % len(kinds)])

        list(threads.map(run, range(num_connections)))


def test_disconnects_leak_nothing(server, record_property):
    disconnect(server, 100)
    with no_leak(server, record_property):
        disconnect(server, 400)


@pytest.mark.long
def test_ten_thousand_disconnects_leak_nothing(server, record_property):
    assert len(DISCONNECTS) >= 10
    disconnect(server, 500)
    with no_leak(server, record_property):
        disconnect(server, 10_000)
