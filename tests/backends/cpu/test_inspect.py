"""`tgi inspect` prints the same facts that the loader finds, without reading any weight."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch

from tests.backends.checkpoints import save_checkpoint
from tgi.architectures import load_spec
from tgi.backend import EngineConfig
from tgi.cli import main
from tgi.testing.tiny_models import write_tokenizer
from tgi_cpu import tgi_backend


def inspect(capsys, *words, exit_code=0):
    assert main(["inspect", *map(str, words), "--json"]) == exit_code
    card = json.loads(capsys.readouterr().out)
    return card, {backend["backend"]: backend for backend in card["backends"]}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    write_tokenizer(path)
    return path, save_checkpoint("llama", path, dtype=torch.bfloat16)


def test_a_built_in_family(llama, capsys):
    path, model = llama
    card, backends = inspect(capsys, path)
    assert (card["family"], card["is_built_in"], card["stored_dtype"]) == ("llama", True, "BF16")
    assert (
        card["parameters"]
        == sum(p.numel() for p in model.parameters())
        == sum(p["parameters"] for p in card["parts"])
    )
    attention = next(part for part in card["parts"] if part["name"] == "model.layers.*.self_attn")
    assert attention["parameters"] == 3 * (2 * 32 * 32 + 2 * 16 * 32)
    assert attention["num_bytes"] == 2 * attention["parameters"]
    spec = load_spec(path)
    memory = tgi_backend().supports(spec, EngineConfig("cpu", str(path), spec)).memory
    assert backends["cpu"]["memory"] == {item.label: item.num_bytes for item in memory}
    assert backends["cpu"]["status"] == "native"
    assert backends["cpu"]["kv_bytes_per_token"] == 3 * 2 * 2 * 8 * 2


def test_options_change_the_response(llama, capsys):
    path, _ = llama
    _, backends = inspect(capsys, path, "--dtype", "float32")
    assert backends["cpu"]["kv_bytes_per_token"] == 3 * 2 * 2 * 8 * 4
    _, backends = inspect(capsys, path, "--kv-cache-dtype", "int8")
    assert backends["cpu"]["kv_bytes_per_token"] == 3 * 2 * 2 * (8 + 4)
    _, backends = inspect(capsys, path, "--quantize", "awq", exit_code=1)
    assert backends["cpu"]["status"] == "no"
    assert "--quantize awq" in backends["cpu"]["reasons"][0]
    card, _ = inspect(capsys, path, "--rope-factor", "2")
    assert card["max_positions"] == 256


def test_a_family_that_only_transformers_knows(tmp_path, capsys):
    sizes = {
        "vocab_size": 99,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 8,
    }
    write_tokenizer(tmp_path)
    model = save_checkpoint("cwm", tmp_path, num_key_value_heads=1, pad_token_id=0, **sizes)
    card, backends = inspect(capsys, tmp_path)
    assert (card["family"], card["is_built_in"]) == ("cwm", False)
    assert card["parameters"] == sum(p.numel() for p in model.parameters())
    assert backends["cpu"]["status"] == "slow"
    assert "transformers" in backends["cpu"]["reasons"][0]


def test_no_weight_is_read(llama, tmp_path, capsys):
    """The file has the size that its header states, a terabyte, and no data after the header."""
    path = shutil.copytree(llama[0], tmp_path / "large")
    rows, columns = 2**30, 512
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(
        json.dumps(config | {"vocab_size": rows, "hidden_size": columns})
    )
    header = json.dumps(
        {
            "model.embed_tokens.weight": {
                "dtype": "BF16",
                "shape": [rows, columns],
                "data_offsets": [0, rows * columns * 2],
            }
        }
    )
    (path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())
    os.truncate(path / "model.safetensors", 8 + len(header) + rows * columns * 2)
    card, _ = inspect(capsys, path, exit_code=1)
    assert "has no tensor `norm.weight`" in card["problem"]
    assert card["parts"] == [
        {
            "name": "model.embed_tokens",
            "parameters": rows * columns,
            "num_bytes": rows * columns * 2,
        }
    ]


def test_output_as_text(llama, capsys):
    assert main(["inspect", str(llama[0])]) == 0
    out = capsys.readouterr().out
    assert "llama (built in)" in out
    assert "KV cache of one token 192 B" in out


def test_an_unreadable_model_gives_one_line(llama, tmp_path, capsys):
    path = shutil.copytree(llama[0], tmp_path / "pickled")
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    assert main(["inspect", str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"Convert them once: tgi convert {path}")
    assert main(["inspect", str(path), "--port", "1"]) == 2
    assert main(["inspect", "--json"]) == 0
    assert "Usage: tgi inspect" in capsys.readouterr().out
