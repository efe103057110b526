"""The commands give the reason of the server for models that `transformers` cannot run."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.backends.checkpoints import save_checkpoint
from tests.live_server import free_port
from tgi.cli import main
from tgi.testing.tiny_models import write_tokenizer

SIZES = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": 0,
}
MODELS = {
    "bert": "keeps no cache of a sequence",
    "clip": "has no text-only generation class",
    "unheard_of": "does not recognize this architecture",
    "own_code": "needs code that comes with the checkpoint",
}


@pytest.mark.parametrize("family", MODELS)
def test_a_model_that_transformers_cannot_run_is_refused_with_the_same_reason(
    family, tmp_path, capsys
):
    write_tokenizer(tmp_path)
    save_checkpoint("bert", tmp_path, **SIZES)
    if family != "bert":
        config = SIZES | {"model_type": family}
        if family == "own_code":
            config["auto_map"] = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
        (tmp_path / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "tgi", "serve", str(tmp_path), "--backend", "cpu"]
    command += ["--hostname", "127.0.0.1", "--port", str(free_port())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    reason = line.removeprefix("Error: ")
    assert MODELS[family] in reason
    for command in ("inspect", "doctor"):
        assert main([command, str(tmp_path), "--backend", "cpu"]) == 1
        assert f"problem: {reason}" in capsys.readouterr().out.splitlines()
