"""A server on the null backend, for tests that send raw bytes."""

import pytest

from tests.live_server import running_server


@pytest.fixture(scope="package")
def null_server(tmp_path_factory, tiny_model):
    log = tmp_path_factory.mktemp("null") / "server.log"
    with running_server(tiny_model, "null", log) as server:
        yield server
