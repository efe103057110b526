"""Servers on the null backend, for tests that send raw bytes."""

import pytest

from tests.live_server import running_server

MAX_CONNECTIONS = 8  # of `strict_server`


@pytest.fixture(scope="package")
def null_server(tmp_path_factory, tiny_model):
    log = tmp_path_factory.mktemp("null") / "server.log"
    with running_server(tiny_model, "null", log) as server:
        yield server


@pytest.fixture(scope="package")
def strict_server(tmp_path_factory, tiny_model):
    """A server with few connections and short time limits."""
    folder = tmp_path_factory.mktemp("strict")
    arguments = ["--http-max-connections", str(MAX_CONNECTIONS), "--max-total-tokens", "65536"]
    for name in ("head", "body", "write", "keep-alive"):
        arguments += [f"--http-{name}-timeout", "2" if name == "keep-alive" else "1"]
    with running_server(tiny_model, "null", folder / "server.log", *arguments) as server:
        yield server
