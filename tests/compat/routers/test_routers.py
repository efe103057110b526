"""Routers and fallbacks of client packages recognize an overloaded server, a prompt that is too
long and a wrong key, and send the request to the next server.
"""

import contextlib

import httpx
import pytest

from tests.compat.test_clients import run_session
from tests.live_server import running_server

KEY = "secret"
OPTIONS = {
    "busy": ["--max-concurrent-requests", "1", "--max-total-tokens", "65536"],
    "small": ["--max-input-tokens", "64"],
    "large": [],
}
ENDLESS = {"inputs": "a", "parameters": {"max_new_tokens": 60_000, "top_n_tokens": 5}}


@pytest.fixture(scope="module")
def servers(tmp_path_factory, tiny_model):
    """The URLs of a server whose only concurrency slot is in use, of a server that accepts only
    short prompts, and of a server that accepts all requests of the sessions.
    """
    folder = tmp_path_factory.mktemp("routers")
    common = ["--api-key", KEY, "--http-write-timeout", "3600"]
    with contextlib.ExitStack() as stack:
        urls = [
            stack.enter_context(
                running_server(tiny_model, "null", folder / f"{name}.log", *common, *arguments)
            ).url
            for name, arguments in OPTIONS.items()
        ]
        headers = {"authorization": f"Bearer {KEY}"}
        # The response is never read. The server pauses the sequence, and the slot stays in use.
        unread = httpx.stream("POST", f"{urls[0]}/generate_stream", json=ENDLESS, headers=headers)
        assert stack.enter_context(unread).status_code == 200
        yield urls


@pytest.mark.long
@pytest.mark.parametrize("name", ["litellm", "langchain", "pydantic_ai"])
def test_the_router_uses_the_next_server(servers, name):
    run_session(f"routers/{name}", *servers, KEY)
