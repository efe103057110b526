"""Requests generated from our OpenAPI document: none causes a server error, and none hangs."""

import re
import subprocess

import httpx
import pytest

from tests.compat.test_clients import PYTHON
from tests.live_server import running_server

SCHEMATHESIS = PYTHON.with_name("schemathesis")
REQUEST_SECONDS = 20


@pytest.fixture(scope="module")
def small_server(tmp_path_factory, tiny_model, tgi_backend):
    """A server with small limits on response length and concurrency, so that a slow backend also
    finishes the longest response before the request timeout.
    """
    log = tmp_path_factory.mktemp("fuzzing") / "server.log"
    limits = ("--max-total-tokens", "64", "--max-concurrent-requests", "16")
    with running_server(tiny_model, tgi_backend, log, *limits) as server:
        yield server


def fuzz(url, *, max_examples, limit_seconds):
    """Run schemathesis and return the number of requests that it generated."""
    command = [
        SCHEMATHESIS,
        "run",
        f"{url}/api-doc/openapi.json",
        "--checks",
        "not_a_server_error",
        "--phases",
        "fuzzing",
    ]
    command += [
        "--max-examples",
        str(max_examples),
        "--request-timeout",
        str(REQUEST_SECONDS),
        "--seed",
        "1",
        "--no-color",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=limit_seconds, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made = re.search(r"(\d+) generated", done.stdout)
    assert made is not None, done.stdout
    return int(made.group(1))


def test_no_request_causes_a_server_error(small_server):
    assert fuzz(small_server.url, max_examples=4, limit_seconds=120) > 50
    assert httpx.get(f"{small_server.url}/health").status_code == 200


@pytest.mark.long
def test_two_thousand_requests_cause_no_server_error(small_server):
    assert fuzz(small_server.url, max_examples=150, limit_seconds=900) >= 2_000
    assert httpx.get(f"{small_server.url}/health").status_code == 200
