"""Requests with different salts share no blocks of the prefix cache: over HTTP, with a backend that
agrees to a prefix cache.
"""

import httpx
import pytest

from tests.live_server import running_server

PROMPT = "the quick brown fox jumps over the lazy dog " * 4


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_model):
    with running_server(tiny_model, "null", tmp_path_factory.mktemp("salt") / "log") as server:
        yield server


def cached_tokens(server, **fields):
    body = {"input": PROMPT, "max_output_tokens": 2, **fields}
    response = httpx.post(f"{server.url}/v1/responses", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()["usage"]["input_tokens_details"]["cached_tokens"]


def test_only_requests_with_the_same_salt_share_blocks(server):
    assert cached_tokens(server, cache_salt="a") == 0
    assert cached_tokens(server, cache_salt="a") > 0
    assert cached_tokens(server, cache_salt="b") == 0
    assert cached_tokens(server) == 0
    assert cached_tokens(server) > 0
    assert cached_tokens(server, cache_salt="b") > 0
