"""The server on this backend gives the same text as on the CPU backend."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.core.house.sources import CORE
from tests.live_server import running_server
from tgi.testing.tiny_models import FAMILIES, write_tiny_model

DEMO = CORE / "demo" / "model"
LIMITS = (
    "--dtype",
    "float32",
    "--max-batch-size",
    "4",
    "--max-total-tokens",
    "128",
    "--max-batch-prefill-tokens",
    "64",
)
TPU = ("--tpu-platform", "cpu", "--tpu-token-buckets", "16,64")
SMALL = (
    "--dtype",
    "float32",
    "--max-batch-size",
    "2",
    "--max-total-tokens",
    "48",
    "--max-batch-prefill-tokens",
    "16",
)
PROMPTS = ("What is machine learning?", "Once upon a time", "def add(a, b):", "The TGI server")


def responses(url, *, max_new_tokens=24):
    """Greedy answers to concurrent requests, so that steps are mixed, with log probabilities."""

    def ask(prompt):
        parameters = {"max_new_tokens": max_new_tokens, "details": True, "do_sample": False}
        response = httpx.post(
            f"{url}/generate", json={"inputs": prompt, "parameters": parameters}, timeout=120
        )
        assert response.status_code == 200, response.text
        return response.json()

    with ThreadPoolExecutor(len(PROMPTS)) as users:
        return list(users.map(ask, PROMPTS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


def test_the_demo_model_gives_the_same_text_on_both_backends(folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    with running_server(DEMO, "tpu", folder / "tpu.log", *LIMITS, *TPU) as server:
        ours = responses(server.url)
        info = httpx.get(f"{server.url}/info/backend").json()
    with running_server(DEMO, "cpu", folder / "cpu.log", *LIMITS) as server:
        theirs = responses(server.url)
    assert [response["generated_text"] for response in ours] == [
        response["generated_text"] for response in theirs
    ]
    assert sum(response["details"]["generated_tokens"] for response in ours) > 30
    for mine, other in zip(ours, theirs, strict=True):
        logprobs, expected = (
            [token["logprob"] for token in response["details"]["tokens"]]
            for response in (mine, other)
        )
        assert logprobs == pytest.approx(expected, abs=1e-3)
    assert (info["backend"], info["facts"]["dtype"], info["depth"]) == ("tpu", "float32", 2)
    assert info["facts"]["platform"] == "JAX on the CPU, no TPU"
    assert any((folder / "tgi" / "tpu").iterdir())  # the next startup finds its programs here


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_family_gives_the_text_of_the_reference(family, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    write_tiny_model(tmp_path / "model", family)
    served = {}
    for backend, arguments in (
        ("tpu", ("--tpu-platform", "cpu", "--tpu-token-buckets", "16")),
        ("reference", ()),
    ):
        with running_server(
            tmp_path / "model", backend, tmp_path / f"{backend}.log", *SMALL, *arguments
        ) as server:
            served[backend] = responses(server.url, max_new_tokens=12)
    ours, theirs = (
        [[token["id"] for token in response["details"]["tokens"]] for response in served[b]]
        for b in served
    )
    assert ours == theirs
    assert sum(map(len, ours)) > len(PROMPTS)
