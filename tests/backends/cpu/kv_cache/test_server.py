"""A server with a cache of codes: its limits and reports, and greedy tokens over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.backends.checkpoints import save_checkpoint
from tests.live_server import running_server
from tgi.architectures import GenericSpec, ModelSpec, load_spec
from tgi.backend import EngineConfig, RequestedLimits
from tgi.testing.conformance.backend_under_test import RecordingReporter
from tgi.testing.tiny_models import write_tokenizer
from tgi.worker.cache_format import CACHE_FORMATS
from tgi.worker.cache_layout import scales_per_token, values_per_token
from tgi_cpu import tgi_backend
from tgi_torch.memory import MemoryFacts, plan_limits

NUM_NEW_TOKENS = 24
# Several prompts begin with the same 90 tokens, and all are longer than a step of 64 tokens.
BEGINNING = "The quick brown fox jumps over the lazy dog, and the sea waits for it. " * 3
TEXTS = [BEGINNING + text for text in ("A river flows.", "x", "def add(a, b):", "one two three")]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    tokenizer = write_tokenizer(path)
    sizes = {"head_dim": 32, "num_key_value_heads": 2, "vocab_size": tokenizer.get_vocab_size()}
    save_checkpoint("llama", path, max_position_embeddings=512, **sizes)
    return path


def spec_of(path: Path) -> ModelSpec:
    spec = load_spec(path)
    assert isinstance(spec, ModelSpec)
    return spec


@pytest.mark.parametrize("name", CACHE_FORMATS)
def test_the_limits_follow_from_the_size_of_a_token(name: str, path: Path) -> None:
    """From the same memory, the worker negotiates about twice as many tokens."""
    spec = spec_of(path)
    assert scales_per_token(spec) == 2 * 2 * 3
    assert values_per_token(spec) == 2 * 2 * 3 * 32
    facts = MemoryFacts(
        free_bytes=64 << 20, weights_bytes=0, dtype="bfloat16", block_size=32, max_step_tokens=32
    )
    requested = RequestedLimits(max_concurrent_requests=1000)
    usual = plan_limits(spec, requested, facts).kv_cache.max_batch_total_tokens
    changed = MemoryFacts(**{**vars(facts), "kv_cache_dtype": name})
    coded = plan_limits(spec, requested, changed).kv_cache.max_batch_total_tokens
    assert coded / usual == pytest.approx(64 / 36 if name == "int8" else 2, rel=0.01)


@pytest.mark.parametrize("name", CACHE_FORMATS)
def test_estimate_and_agreement_report_the_format(name: str, path: Path) -> None:
    config = EngineConfig("cpu", str(path), spec_of(path), kv_cache_dtype=name)
    support = tgi_backend().supports(config.spec, config)
    assert support.status == "native"
    item = next(item for item in support.memory if item.label == "KV cache of one token")
    assert item.num_bytes == 2 * 2 * 3 * (36 if name == "int8" else 32)
    assert item.detail == name
    worker = tgi_backend().create_worker(config, RecordingReporter())
    worker.load()
    agreement = worker.negotiate(RequestedLimits(max_batch_total_tokens=640))
    worker.close()
    assert agreement.facts["kv cache"] == name
    assert agreement.facts["kv cache scales"] == (
        "one per token and head" if name == "int8" else "1"
    )
    cache = next(item for item in agreement.memory if item.label == "KV cache")
    assert cache.num_bytes == 640 * item.num_bytes


def test_models_without_such_a_cache_are_rejected(path: Path) -> None:
    config = EngineConfig("cpu", str(path), spec_of(path), kv_cache_dtype="int8")
    generic = GenericSpec("new", 9, 8, 1, 1, 8, 9, {})
    support = tgi_backend().supports(generic, msgspec.structs.replace(config, spec=generic))
    assert support.status == "no"
    assert (
        "`--kv-cache-dtype int8` stores the KV cache in int8 with one scale per token and head,"
        " which the backend `cpu` cannot do; it does this only for architectures that are built"
        " in; leave the option out"
    ) in support.reasons


def tokens_of(url: str) -> Callable[[str], list[int]]:
    def generate(text: str) -> list[int]:
        parameters = {"max_new_tokens": NUM_NEW_TOKENS, "ignore_eos": True, "details": True}
        body = {"inputs": text, "parameters": parameters}
        response = httpx.post(f"{url}/generate", json=body, timeout=120)
        assert response.status_code == 200, response.text
        return [token["id"] for token in response.json()["details"]["tokens"]]

    return generate


@pytest.mark.parametrize("name", ["fp8_e4m3fn", "int8"])
def test_prefix_hits_and_chunks_change_no_token(
    name: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second request of a text finds its blocks in the cache. The second server computes the
    prompts in chunks, and four sequences in one batch.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = ["--kv-cache-dtype", name, "--max-total-tokens", "320"]
    chunked = [*options, "--max-batch-prefill-tokens", "64", "--max-batch-total-tokens", "640"]
    with running_server(path, "cpu", tmp_path / "whole", *options) as server:
        info = httpx.get(f"{server.url}/info/backend").json()
        assert info["facts"]["kv cache"] == name
        expected = [tokens_of(server.url)(text) for text in TEXTS]
        assert [tokens_of(server.url)(text) for text in TEXTS] == expected
    with (
        running_server(path, "cpu", tmp_path / "chunked", *chunked) as server,
        ThreadPoolExecutor(4) as pool,
    ):
        assert list(pool.map(tokens_of(server.url), TEXTS)) == expected
