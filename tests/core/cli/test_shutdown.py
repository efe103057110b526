"""The end of a server: during startup, with open requests, and at once after a second signal."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import msgspec
import psutil
import pytest

from tests.live_server import free_port, wait_ready
from tgi.testing.doubles.null_script import NullScript

MESSAGES = [{"role": "user", "content": "Hello"}]
LONG = {"max_new_tokens": 400, "ignore_eos": True}
TEXT = {"inputs": "Hello", "parameters": LONG}
CHAT = {"messages": MESSAGES, "max_tokens": 400, "ignore_eos": True}
STREAMS = {
    "/generate_stream": TEXT,
    "/v1/chat/completions": CHAT | {"stream": True},
    "/v1/completions": {"prompt": "Hello", "max_tokens": 400, "ignore_eos": True, "stream": True},
    "/v1/messages": CHAT | {"stream": True},
    "/v1/responses": {"input": "Hello", "max_output_tokens": 400, "stream": True},
}
# The last event of each protocol after an error.
ENDS = {
    "/generate_stream": lambda events: "shutting down" in json.loads(events[-1])["error"],
    "/v1/chat/completions": lambda events: events[-1] == "[DONE]" and "error" in events[-2],
    "/v1/completions": lambda events: events[-1] == "[DONE]" and "error" in events[-2],
    "/v1/messages": lambda events: json.loads(events[-1])["type"] == "error",
    "/v1/responses": lambda events: json.loads(events[-1])["type"] == "response.failed",
}
WHOLE = {"/generate": TEXT, "/v1/chat/completions": CHAT, "/v1/messages": CHAT}


class Server:
    """A server that runs in a separate process. `process` is None until `start` is called."""

    def __init__(self, folder, model):
        self.port, self.log_file = free_port(), folder / "server.log"
        self.url = f"http://127.0.0.1:{self.port}"
        script = folder / "script.json"
        script.write_bytes(msgspec.json.encode(NullScript(step_seconds=0.05, load_seconds=1.0)))
        self._command = [sys.executable, "-m", "tgi", "serve", "--model-id", str(model)]
        self._command += ["--backend", "null", "--null-script", str(script)]
        self._command += ["--port", str(self.port)]
        self.process = None

    def start(self, *arguments, hostname="127.0.0.1", max_files=None, **variables):
        command = [*self._command, "--hostname", hostname, *arguments]
        if max_files is not None:
            # The shell sets the limit. A function for the child would need a fork of this process,
            # which may have threads of JAX.
            command = ["sh", "-c", f'ulimit -n {max_files}; exec "$@"', "sh", *command]
        with self.log_file.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | variables,
            )

    def wait_ready(self):
        wait_ready(self.url, self.process, self.log_file)

    @property
    def log(self):
        return self.log_file.read_text()

    def wait_log(self, text, seconds=60):
        end = time.monotonic() + seconds
        while text not in self.log:
            assert time.monotonic() < end, f"no `{text}` in {self.log}"
            assert self.process.poll() is None, self.log
            time.sleep(0.005)

    def ended_after(self, seconds=60):
        """Wait until the process has ended. Returns the time in seconds and the exit code."""
        begin = time.monotonic()
        code = self.process.wait(seconds)
        return time.monotonic() - begin, code


@pytest.fixture
def server(tmp_path, tiny_model):
    server = Server(tmp_path, tiny_model)
    yield server
    if server.process is not None and server.process.poll() is None:
        server.process.kill()
        server.process.wait()


def post_all(server, bodies, *, is_stream):
    """Send all requests. Returns their threads and a table of their results by path."""
    results, begun = {}, {path: threading.Event() for path in bodies}

    def post(path):
        with httpx.stream("POST", server.url + path, json=bodies[path], timeout=60) as response:
            lines = []
            for line in response.iter_lines():
                lines.append(line)
                begun[path].set()
            results[path] = (response, lines)

    threads = [threading.Thread(target=post, args=(path,)) for path in bodies]
    for thread in threads:
        thread.start()
    if is_stream:
        assert all(event.wait(30) for event in begun.values())
    else:
        time.sleep(1.0)
    return threads, results


def drained(server, bodies, *numbers, is_stream):
    """Send requests and then the signals. Returns the results, the time and the exit code."""
    threads, results = post_all(server, bodies, is_stream=is_stream)
    for number in numbers:
        server.process.send_signal(number)
        time.sleep(0.3)
    seconds, code = server.ended_after()
    for thread in threads:
        thread.join(10)
    assert results.keys() == bodies.keys(), server.log
    return results, seconds, code


@pytest.mark.parametrize("is_forced", [False, True], ids=["time is over", "second signal"])
def test_at_the_end_each_stream_has_the_last_event_of_its_protocol(server, is_forced):
    server.start("--graceful-termination-timeout", "600" if is_forced else "1")
    server.wait_ready()
    numbers = (signal.SIGTERM,) * (2 if is_forced else 1)
    results, seconds, code = drained(server, STREAMS, *numbers, is_stream=True)
    for path, (_, lines) in results.items():
        events = [line.removeprefix("data:").strip() for line in lines if line[:5] == "data:"]
        assert ENDS[path](events), (path, events[-3:])
    assert (code, seconds < 5) == (143 if is_forced else 0, True)
    assert server.log.count("Shutting down after SIGTERM. 5 open requests") == 1
    assert "Traceback" not in server.log
    assert "ERROR" not in server.log


def test_at_the_end_each_request_has_a_json_error(server):
    server.start("--graceful-termination-timeout", "1")
    server.wait_ready()
    results, _, code = drained(server, WHOLE, signal.SIGTERM, is_stream=False)
    for path, (response, lines) in results.items():
        assert response.status_code in (503, 529), path
        assert response.headers["content-type"] == "application/json"
        assert "shutting down" in json.dumps(json.loads(lines[0])["error"])
    assert code == 0
    assert "Traceback" not in server.log


INCOMPLETE = {
    "/generate": (503, lambda body: body["error_type"]),
    "/v1/chat/completions": (503, lambda body: body["error"]["type"]),
    "/v1/messages": (529, lambda body: body["error"]["type"]),
}


def test_a_request_whose_body_is_incomplete_has_an_error_of_its_protocol(server):
    server.start("--graceful-termination-timeout", "1")
    server.wait_ready()
    with contextlib.ExitStack() as parts:
        connections = {
            path: socket.create_connection(("127.0.0.1", server.port), 30) for path in INCOMPLETE
        }
        for path, connection in connections.items():
            parts.enter_context(connection)
            connection.sendall(
                f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                'Content-Length: 100\r\n\r\n{"inputs'.encode()
            )
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        types = {}
        for path, connection in connections.items():
            received = b"".join(iter(lambda: connection.recv(1 << 16), b""))  # noqa: B023
            head, _, body = received.partition(b"\r\n\r\n")
            status, type_of = INCOMPLETE[path]
            assert head.startswith(f"HTTP/1.1 {status}".encode())
            assert b"retry-after: 5" in head
            assert b"connection: close" in head
            types[path] = type_of(json.loads(body))
    assert [*types.values()] == ["healthcheck", "server_error", "overloaded_error"]
    assert server.ended_after()[1] == 0
    assert "Traceback" not in server.log


def test_requests_that_finish_in_time_are_complete(server):
    server.start("--graceful-termination-timeout", "60")
    server.wait_ready()
    body = {"inputs": "Hello", "parameters": {"max_new_tokens": 40, "ignore_eos": True}}
    results, _, code = drained(server, {"/generate_stream": body}, signal.SIGTERM, is_stream=True)
    _, lines = results["/generate_stream"]
    assert json.loads([line for line in lines if line][-1][5:])["generated_text"]
    assert code == 0


@pytest.mark.parametrize("pause", [0.0, 1.0])
def test_a_second_signal_does_not_wait_for_a_frozen_engine(server, pause):
    server.start()
    server.wait_log("Connected")
    engine = engine_of(server)
    engine.suspend()
    server.process.send_signal(signal.SIGTERM)
    server.wait_log("Shutting down")
    time.sleep(pause)
    server.process.send_signal(signal.SIGTERM)
    seconds, code = server.ended_after()
    assert (code, seconds < 2) == (143, True), server.log
    engine.wait(5)


SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]


@contextlib.contextmanager
def stalled_hub():
    """A hub that accepts connections and never answers. Yields its URL and an event that is set at
    the first connection.
    """
    has_connection, connections = threading.Event(), []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    connections.append(listening.accept()[0])
                    has_connection.set()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", has_connection
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in connections:
            connection.close()


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_during_a_stalled_download_ends_the_process(server, tmp_path, number, code):
    with stalled_hub() as (url, has_connection):
        server._command[server._command.index("--model-id") + 1] = "owner/model"
        server.start(HF_ENDPOINT=url, HF_HOME=str(tmp_path))
        assert has_connection.wait(60), server.log
        server.process.send_signal(number)
        seconds, status = server.ended_after()
    assert (status, seconds < 2) == (code, True), server.log
    assert "Stopped while starting." in server.log
    assert "Traceback" not in server.log


def engine_of(server):
    """Return the engine process of a server as soon as it exists."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            for child in psutil.Process(server.process.pid).children():
                if "tgi.engine" in child.cmdline():
                    return child
        time.sleep(0.002)
    raise AssertionError(server.log)


@pytest.mark.parametrize("phase", ["before the connection", "load", "frozen"])
@pytest.mark.parametrize(("number", "code"), SIGNALS[:2])
def test_a_signal_while_the_engine_starts_ends_the_process(server, phase, number, code):
    server.start()
    engine = engine_of(server)
    if phase == "load":
        server.wait_log("load")
    elif phase == "frozen":
        engine.suspend()
        time.sleep(0.5)
    server.process.send_signal(number)
    seconds, status = server.ended_after()
    assert (status, seconds < 2) == (code, True), server.log
    assert "Stopped while starting." in server.log
    assert "did not" not in server.log
    with contextlib.suppress(psutil.NoSuchProcess):
        engine.wait(5)


def test_connected_is_logged_when_the_port_listens(server):
    server.start()
    server.wait_log("Connected")
    with socket.create_connection(("127.0.0.1", server.port), 0.5):
        pass


@pytest.mark.parametrize(
    ("hostname", "arguments", "is_open"),
    [("0.0.0.0", (), True), ("127.0.0.1", (), False), ("0.0.0.0", ("--api-key", "k"), False)],
)
def test_the_log_reports_that_other_machines_need_no_key(server, hostname, arguments, is_open):
    server.start(*arguments, hostname=hostname)
    server.wait_log("Connected")
    assert ("Other machines can reach this server without an API key" in server.log) == is_open


def test_a_long_path_of_temporary_files_is_one_sentence(server, tmp_path):
    folder = tmp_path / ("x" * 95)
    folder.mkdir()
    server.start(TMPDIR=str(folder))
    assert server.ended_after()[1] == 1
    last = server.log.strip().splitlines()[-1]
    assert last.startswith("Error: The path of the engine's socket")
    assert "TMPDIR" in last
    assert not list(folder.iterdir())
    assert "Traceback" not in server.log


@pytest.mark.parametrize("number", [12, 20, 40, 95])
def test_too_few_descriptors_are_one_sentence(server, number):
    server.start(max_files=number)
    assert server.ended_after()[1] == 1
    last = server.log.strip().splitlines()[-1]
    assert last.startswith(f"Error: The process may open {number} files")
    assert "Traceback" not in server.log


def test_the_minimum_number_of_descriptors_is_enough(server):
    server.start(max_files=96)
    server.wait_ready()
