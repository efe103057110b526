"""Checkpoints served with `tgi serve` on the CPU backend.

These are a family that only transformers knows, scaled rope, and pickled weights.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

import httpx
import torch

from tests.backends.checkpoints import SMALL, save_checkpoint
from tests.live_server import running_server
from tgi.text import Tokenizer


def test_the_fallback_serves_and_logs_that_it_is_slow(tmp_path, tiny_model):
    path = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = Tokenizer.load(tiny_model)
    model = save_checkpoint("cwm", path, vocab_size=tokenizer.vocab_size, head_dim=8, **SMALL)
    prompt = tokenizer.encode("once upon a time", add_special_tokens=True).ids
    expected = model.generate(
        torch.tensor([prompt]),
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=None,
        attention_mask=torch.ones(1, len(prompt)),
    )[0, len(prompt) :].tolist()
    with running_server(path, "cpu", tmp_path / "log", "--max-total-tokens", "64") as server:
        parameters = {"max_new_tokens": 8, "details": True}
        body = {"inputs": "once upon a time", "parameters": parameters}
        response = httpx.post(f"{server.url}/generate", json=body, timeout=60).json()
        sampled = parameters | {
            "do_sample": True,
            "seed": 3,
            "temperature": 0.7,
            "top_k": 5,
            "top_p": 0.9,
            "typical_p": 0.9,
        }
        body = {
            "inputs": "once upon a time",
            "parameters": sampled | {"repetition_penalty": 1.2, "frequency_penalty": 0.1},
        }
        once, again = (
            httpx.post(f"{server.url}/generate", json=body, timeout=60).json() for _ in range(2)
        )
        max_total_tokens = httpx.get(f"{server.url}/info").json()["max_total_tokens"]
    tokens = [token["id"] for token in response["details"]["tokens"]]
    assert tokens == expected[: len(tokens)]
    assert tokens
    assert once["generated_text"] == again["generated_text"]
    assert max_total_tokens == 64
    assert (
        "`cwm` is not built in: it runs with transformers' modelling code"
        in (tmp_path / "log").read_text()
    )


def test_a_rope_factor_lengthens_the_context(tmp_path, tiny_model):
    arguments = ("--rope-scaling", "linear", "--rope-factor", "1.5")
    with running_server(tiny_model, "cpu", tmp_path / "log", *arguments) as server:
        assert httpx.get(f"{server.url}/info").json()["max_total_tokens"] == 768


def test_pickled_weights_give_an_error_with_the_command(tmp_path, tiny_model):
    path = shutil.copytree(tiny_model, tmp_path / "model")
    for file in path.glob("*.safetensors"):
        file.rename(path / "pytorch_model.bin")
    command = [sys.executable, "-m", "tgi", "serve", str(path), "--backend", "cpu", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert lines[0].endswith(f"Convert them once: tgi convert {path}")
