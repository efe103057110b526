"""A model with recurrent layers, served over HTTP, computes only the tail of a repeated prompt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.live_server import running_server
from tgi.testing.tiny_models import RECURRENT, write_tiny_model

NUM_PROMPT_TOKENS = 2000
BLOCK_TOKENS = 16


@pytest.fixture(scope="module", params=sorted(RECURRENT))
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path: Path = tmp_path_factory.mktemp(request.param)
    write_tiny_model(path, request.param, max_position_embeddings=4096)
    options = ("--max-batch-prefill-tokens", "512", "--max-total-tokens", "2200")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with running_server(path, "cpu", path / "log", *options) as server:
            yield server.url


def complete(url: str, prompt: list[int], **fields: Any) -> tuple[Any, int, int]:
    """Return the text, the number of cached prompt tokens, and the number of prefill steps."""
    before = num_prefill_steps(url)
    body = {"prompt": prompt, "max_tokens": 6, "temperature": 0, "ignore_eos": True, **fields}
    response = httpx.post(f"{url}/v1/completions", json=body, timeout=120)
    assert response.status_code == 200, response.text
    num_cached = response.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return response.json()["choices"], num_cached, num_prefill_steps(url) - before


def num_prefill_steps(url: str) -> int:
    mark = 'tgi_batch_inference_count{method="prefill"} '
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(int(line.removeprefix(mark)) for line in lines if line.startswith(mark))


def test_the_second_request_computes_only_the_tail(url: str) -> None:
    prompt = np.random.default_rng(1).integers(4, 300, NUM_PROMPT_TOKENS).tolist()
    # Three steps of 512 tokens, the tokens up to the snapshot, and the last block.
    text, num_cached, num_steps = complete(url, prompt)
    assert (num_cached, num_steps) == (0, 5)
    # The last block is computed again, because a prefix never contains the last token.
    assert complete(url, prompt) == (text, NUM_PROMPT_TOKENS - BLOCK_TOKENS, 1)


def test_turns_of_a_conversation_share_the_preceding_prompt(url: str) -> None:
    rng = np.random.default_rng(2)
    prompt = rng.integers(4, 300, 1000).tolist()
    complete(url, prompt)
    longer = prompt + rng.integers(4, 300, 200).tolist()
    text, num_cached, _ = complete(url, longer)
    assert num_cached == 992
    assert complete(url, longer, cache_salt="another user")[1] == 0
    assert complete(url, longer)[:2] == (text, 1184)
