"""A GGUF file over HTTP: the greedy tokens of the same weights in Hugging Face format."""

import httpx

from tests.core.checkpoints.gguf_twins import write_twins
from tests.live_server import running_server

PROMPTS = ("The quick brown fox", "A river flows")


def greedy(model, backend, log, *options):
    """The ids of 32 tokens after each prompt."""
    body = {"max_new_tokens": 32, "details": True}
    with running_server(model, backend, log, *options) as server:
        responses = [
            httpx.post(
                f"{server.url}/generate", json={"inputs": prompt, "parameters": body}, timeout=120
            ).json()
            for prompt in PROMPTS
        ]
    return [[token["id"] for token in item["details"]["tokens"]] for item in responses]


def test_a_gguf_file_gives_the_tokens_of_its_twin(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path, twin = write_twins(tmp_path, "llama")
    options = ("--dtype", "float32")
    expected = greedy(twin, "cpu", tmp_path / "twin.log", *options)
    assert greedy(path, "cpu", tmp_path / "file.log", *options) == expected
    assert all(len(ids) == 32 for ids in expected)
