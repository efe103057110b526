"""A model in the cache of the hub is served while the hub cannot be reached, without the task that
the hub lists for the model.
"""

import http.server
import shutil
import socket
import threading
from contextlib import contextmanager

import httpx
import pytest

from tests.live_server import running_server

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Failing(http.server.BaseHTTPRequestHandler):
    """Answers with the status of the server, and a body that is not JSON."""

    def do_GET(self):
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(b"<html>")

    def do_HEAD(self):
        self.do_GET()

    def log_message(self, *_):
        pass


@contextmanager
def http_server(status):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    server.status = status
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def closed_connection():
    """A server that closes every connection without an answer."""
    listener = socket.create_server(("127.0.0.1", 0))

    def close_all():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.close()

    threading.Thread(target=close_all, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@contextmanager
def address(url):
    yield url


HUBS = {
    "nothing listens": lambda: address("http://127.0.0.1:9"),
    "no such host": lambda: address("http://hub.invalid"),
    "the connection is closed": closed_connection,
    "status 503": lambda: http_server(503),
    "status 429": lambda: http_server(429),
}


@pytest.fixture
def cache(tiny_model, tmp_path):
    """The cache of a hub with the tiny model."""
    folder = tmp_path / "hub" / "models--ours--tiny"
    shutil.copytree(tiny_model, folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    return tmp_path


@pytest.mark.parametrize("kind", HUBS)
def test_a_cached_model_is_served_without_the_hub(kind, cache, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HOME", str(cache))
    with HUBS[kind]() as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        with running_server("ours/tiny", "null", cache / "log") as server:
            info = httpx.get(f"{server.url}/info").json()
    assert (info["model_id"], info["model_sha"]) == ("ours/tiny", COMMIT)
    assert info["model_pipeline_tag"] is None
    assert "Traceback" not in (cache / "log").read_text()
