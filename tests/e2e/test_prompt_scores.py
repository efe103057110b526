"""Log probabilities of prompts, for the families for which TGI needed no option."""

import httpx
import pytest

from tests.backends.checkpoints import save_checkpoint
from tests.backends.mixer_checkpoints import save_mixer_variant
from tests.live_server import running_server
from tgi.testing.tiny_models import write_tokenizer

BODY = {"inputs": "A river", "parameters": {"max_new_tokens": 1, "decoder_input_details": True}}


def prefill_of(family, path):
    """The prefill details of a server of this family that was started without options."""
    vocab_size = write_tokenizer(path).get_vocab_size()
    if family in ("mamba", "t5"):
        save_mixer_variant(family, path, vocab_size=vocab_size)
    else:
        save_checkpoint(family, path, vocab_size=vocab_size)
    with running_server(path, "cpu", path / "log", "--max-total-tokens", "64") as server:
        response = httpx.post(f"{server.url}/generate", json=BODY, timeout=60)
        num_tokens = len(httpx.post(f"{server.url}/tokenize", json=BODY).json())
    assert response.status_code == 200, response.text
    return response.json()["details"]["prefill"], num_tokens


LONG = [pytest.param(family, marks=pytest.mark.long) for family in ("mamba", "mpt", "opt")]


@pytest.mark.parametrize("family", ["bloom", *LONG])
def test_a_family_without_flash_attention_scores_prompts(family, tmp_path):
    prefill, num_tokens = prefill_of(family, tmp_path)
    first, *rest = prefill
    assert len(prefill) == num_tokens
    assert first["logprob"] is None
    assert all(token["logprob"] < 0 for token in rest)


def test_an_encoder_decoder_returns_the_first_token_of_the_decoder(tmp_path):
    prefill, _ = prefill_of("t5", tmp_path)
    assert prefill == [{"id": 0, "text": "<s>", "logprob": None}]


def test_other_families_need_the_option(tmp_path):
    assert prefill_of("llama", tmp_path)[0] == []
