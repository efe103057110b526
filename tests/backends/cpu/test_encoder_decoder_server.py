"""A t5 model served over HTTP, from the input text to greedy tokens."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from tests.backends.mixer_checkpoints import save_mixer_variant
from tests.live_server import running_server
from tgi.testing.tiny_models import write_tokenizer

TEXTS = (
    "A river flows.",
    "x",
    # Longer than a step.
    "The quick brown fox jumps over the lazy dog, and the sea waits for it. " * 2,
    "def add(a, b):",
    "Ein kleiner L\u00f6we",
)
NUM_NEW_TOKENS = 32
STEP_TOKENS = 24


@dataclass(frozen=True)
class Served:
    model: PreTrainedModel
    tokenizer: Tokenizer
    url: str

    def generate(self, text: str, route: str = "/generate", **parameters: Any) -> httpx.Response:
        parameters = {
            "max_new_tokens": NUM_NEW_TOKENS,
            "ignore_eos": True,
            "details": True,
            **parameters,
        }
        return httpx.post(
            f"{self.url}{route}", json={"inputs": text, "parameters": parameters}, timeout=60
        )

    def expected(self, text: str) -> list[int]:
        ids = torch.tensor([self.tokenizer.encode(text).ids])
        with torch.inference_mode():
            # The cache of transformers 5.23 fails if the stacks differ in depth.
            output = self.model.generate(
                ids, do_sample=False, num_beams=1, max_new_tokens=NUM_NEW_TOKENS, use_cache=False
            )
            return output[0, 1:].tolist()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = tmp_path_factory.mktemp("t5")
    tokenizer = write_tokenizer(path)
    model = save_mixer_variant("t5", path, vocab_size=tokenizer.get_vocab_size())
    model.generation_config.eos_token_id = None
    options = (
        "--max-batch-prefill-tokens",
        str(STEP_TOKENS),
        "--max-total-tokens",
        "192",
        "--enable-prefill-logprobs",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with running_server(path, "cpu", path / "log", *options) as server:
            yield Served(model, tokenizer, server.url)


def test_texts_served_together_equal_those_of_transformers(served: Served) -> None:
    assert max(len(served.tokenizer.encode(text).ids) for text in TEXTS) > STEP_TOKENS
    with ThreadPoolExecutor(len(TEXTS)) as pool:
        responses = list(pool.map(served.generate, TEXTS))
    for text, response in zip(TEXTS, responses, strict=True):
        assert response.status_code == 200, response.text
        assert [token["id"] for token in response.json()["details"]["tokens"]] == served.expected(
            text
        )
        assert response.headers["x-prompt-tokens"] == str(len(served.tokenizer.encode(text).ids))


def test_the_prefill_contains_the_start_token_of_the_decoder(served: Served) -> None:
    details = served.generate(TEXTS[0], decoder_input_details=True).json()["details"]
    assert details["prefill"] == [{"id": 0, "text": "<s>", "logprob": None}]


def test_the_text_counts_as_input(served: Served) -> None:
    response = served.generate("x " * 200)
    assert response.status_code == 422
    assert "`inputs` tokens + `max_new_tokens` must be <= 192" in response.json()["error"]
