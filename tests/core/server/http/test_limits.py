"""Limits in front of the application: heads, slow clients, connections."""

import contextlib
import resource
import subprocess
import sys
import time

import httpx
import psutil
import pytest

from tests.core.server.http.conftest import MAX_CONNECTIONS
from tests.core.server.http.raw_http import (
    connect,
    exchange,
    open_stream,
    receive,
    split_responses,
)
from tests.live_server import free_port, wait_ready

HEALTH = b"GET /health HTTP/1.1\r\nHost: tests\r\n\r\n"


def head(*lines, target=b"/health"):
    return b"\r\n".join([b"GET %b HTTP/1.1" % target, b"Host: tests", *lines, b"", b""])


@pytest.mark.parametrize(
    ("data", "status", "word"),
    [
        (head(b"X: " + b"x" * 60_000), 200, ""),
        (head(*(b"X-%d: x" % number for number in range(99))), 200, ""),
        (head(target=b"/health?" + b"x" * 60_000), 200, ""),
        (head(b"X: " + b"x" * 66_000), 431, "65536 bytes"),
        (head(*(b"X: " + b"x" * 1000 for _ in range(70))), 431, "65536 bytes"),
        (head(*(b"X-%d: x" % number for number in range(100))), 431, "100 headers"),
        (head(*(b"X: x" for _ in range(100_000))), 431, "100 headers"),
        (head(target=b"/" + b"x" * 66_000), 414, "65536 bytes"),
        (head(target=b"/" + b"x" * 10_000_000), 414, "65536 bytes"),
        (b"GET /" + b"x" * 500_000, 414, "65536 bytes"),
        (b"GET /health HTTP/1.1\r\nX: " + b"x" * 5_000_000, 431, "65536 bytes"),
        (b"GET /health HTTP/1.1\r\n" + b"x" * 5_000_000, 431, "65536 bytes"),
        (b"\r\n" * 1_000_000, 431, "65536 bytes"),
        (HEALTH[:-2] + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 300_000, 400, "extensions"),
        (
            HEALTH[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 50_000,
            400,
            "trailers",
        ),
    ],
)
def test_a_head_has_a_limited_size(null_server, data, status, word):
    before = psutil.Process(null_server.pid).memory_info().rss
    responses, is_open = exchange(null_server.url, data, count=1)
    if status == 400 and responses[0].status == 200:
        # The application has responded before the invalid body was received.
        assert not is_open
        return
    assert ([response.status for response in responses], is_open) == ([status], status == 200)
    if status != 200:
        assert word in responses[0].json["error"]
    assert psutil.Process(null_server.pid).memory_info().rss - before < 20 << 20


def closed_after(connection, data=b"", *, drip=b""):
    """Send `data`, then `drip` every 0.1 s, until the server closes the connection. Return the
    bytes received and the seconds.
    """
    start = time.monotonic()
    connection.sendall(data)
    connection.settimeout(0.1)
    received = b""
    while time.monotonic() - start < 20:
        try:
            part = receive(connection)
        except TimeoutError:
            with contextlib.suppress(OSError):
                connection.sendall(drip)
            continue
        if not part:
            return received, time.monotonic() - start
        received += part
    raise AssertionError("the server did not close the connection")


POST = b"POST /generate HTTP/1.1\r\nContent-Length: 9\r\n"
TYPE = b"Content-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("data", "drip", "expected"),
    [
        (b"", b"", []),
        (b"GET", b"", [408]),
        (b"GET / HTTP/1.1\r\nX: ", b"x", [408]),
        (b"GET / HTTP/1.1\r\n", b"X: y\r\n", [408]),
        (HEALTH + b"GET /health", b"", [200, 408]),
        (HEALTH + b"GET /health HTTP/1.1\r\nX: ", b"x", [200, 408]),
        (HEALTH, b"", [200]),
        (POST + TYPE + b"\r\n{", b"", [408]),
        (POST + b"\r\n{", b"", [415]),
    ],
)
def test_a_client_that_sends_slowly_is_disconnected(strict_server, data, drip, expected):
    with connect(strict_server.url) as connection:
        received, seconds = closed_after(connection, data, drip=drip)
    statuses = [response.status for response in split_responses(received, is_closed=True)]
    assert statuses == expected
    assert 0.9 < seconds < 8


def test_a_slow_body_that_makes_progress_is_read(strict_server):
    body = b'{"inputs":"Hello","parameters":{"max_new_tokens":2}}'
    data = b"POST /generate HTTP/1.1\r\nContent-Type: application/json\r\n"
    data += b"Content-Length: %d\r\n\r\n" % len(body)
    pieces = [body[start : start + 15] for start in range(0, len(body), 15)]
    responses, is_open = exchange(strict_server.url, data, *pieces, count=1, pause=0.7)
    assert ([response.status for response in responses], is_open) == ([200], True)


def test_a_client_that_reads_nothing_is_disconnected(strict_server):
    dropped = strict_server.count_failures("dropped")
    with open_stream(strict_server, receive_buffer=4096):
        end = time.monotonic() + 60
        while strict_server.count_failures("dropped") == dropped:
            assert time.monotonic() < end, "the stream still runs"
            time.sleep(0.2)


def test_idle_connections_make_way_for_new_ones(strict_server):
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connect(strict_server.url)) for _ in range(30)]
        responses, _ = exchange(strict_server.url, HEALTH, count=1)
        assert [response.status for response in responses] == [200]
        assert receive(idle[0]) == b""


def test_health_checks_have_reserved_connections(strict_server):
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(open_stream(strict_server)) for _ in range(MAX_CONNECTIONS)]
        for stream in streams:
            assert receive(stream).startswith(b"HTTP/1.1 200")
        responses, is_open = exchange(strict_server.url, HEALTH, count=1)
        assert ([response.status for response in responses], is_open) == ([200], False)
        post = b"POST /generate HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
        responses, is_open = exchange(strict_server.url, post, count=1)
        assert ([response.status for response in responses], is_open) == ([503], False)
        assert responses[0].json["error_type"] == "overloaded"


def test_few_descriptors_do_not_lock_out_health_checks(tmp_path, tiny_model):
    port, log = free_port(), tmp_path / "server.log"
    command = [sys.executable, "-m", "tgi", "serve", "--model-id", str(tiny_model)]
    command += ["--backend", "null", "--hostname", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(process.terminate)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (128, 128))
        wait_ready(url, process, log)
        for _ in range(300):
            stack.enter_context(connect(url))
        assert httpx.get(f"{url}/health", timeout=10).status_code == 200
