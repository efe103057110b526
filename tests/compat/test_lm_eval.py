"""The log likelihoods that lm-eval computes over `/v1/completions` equal those of transformers."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.compat.test_clients import run_session
from tests.core.house.sources import ROOT
from tests.live_server import running_server

MODEL = ROOT / "core" / "tgi" / "demo" / "model"
CONTEXTS = ["The capital of France is", "What is 2 + 2?", "One two three", "Sort these words:"]
CONTINUATIONS = [" Paris.", "\n2 + 2 = 4", " four", " not this one"]
TEXTS = ["The capital of France is Paris.", "tgi serves large language models over HTTP. " * 4]


class Reference:
    """The demo model in transformers."""

    def __init__(self):
        self.tokenizer = AutoTokenizer.from_pretrained(MODEL)
        self._model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)

    def score(self, ids, start):
        """Return the log likelihood of the tokens from `start` on, and whether all are greedy."""
        with torch.inference_mode():
            logprobs = self._model(torch.tensor([ids])).logits[0].log_softmax(-1)[start - 1 : -1]
        own = torch.tensor(ids[start:])
        total = logprobs.gather(1, own.unsqueeze(1)).sum().item()
        return total, bool((logprobs.argmax(-1) == own).all())

    def pair(self, context, continuation):
        """Return the expected result of a continuation. As in lm-eval, the context is tokenized
        with its continuation.
        """
        start = len(self.tokenizer(context)["input_ids"])
        logprob, is_greedy = self.score(self.tokenizer(context + continuation)["input_ids"], start)
        return {
            "context": context,
            "continuation": continuation,
            "logprob": logprob,
            "is_greedy": is_greedy,
        }

    def text(self, text):
        """Return the expected result of a text, which lm-eval scores after an EOS token."""
        ids = [self.tokenizer.eos_token_id, *self.tokenizer(text)["input_ids"]]
        return {"text": text, "logprob": self.score(ids, 1)[0]}


@pytest.mark.long
def test_log_likelihoods_equal_those_of_transformers(tmp_path):
    reference = Reference()
    pairs = [reference.pair(a, b) for a in CONTEXTS for b in CONTINUATIONS]
    assert 0 < sum(pair["is_greedy"] for pair in pairs) < len(pairs)
    expected = tmp_path / "expected.json"
    expected.write_text(
        json.dumps({"pairs": pairs, "texts": [reference.text(text) for text in TEXTS]})
    )
    arguments = ["--dtype", "float32", "--enable-prefill-logprobs"]
    with running_server(MODEL, "cpu", tmp_path / "server.log", *arguments) as server:
        run_session("lm_eval", server.url, str(MODEL), str(expected))
