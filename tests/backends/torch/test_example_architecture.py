"""The example package that adds a model family.

It is found through its entry point, equals `transformers`, and can be served.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import httpx
import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from tests.backends.checkpoints import save_checkpoint
from tests.backends.paged_batch import PagedSequence, step
from tests.live_server import running_server
from tgi.architectures import GenericSpec, ModelSpec, load_spec
from tgi.testing.tiny_models import write_tokenizer
from tgi_torch.attention.kv_cache import KVCache
from tgi_torch.model.decoder import build_decoder
from tgi_torch.ops import REFERENCE
from tgi_torch.weights.loading import load_weights

EXAMPLE = Path(__file__).parents[3] / "examples" / "tgi-architecture-example"
PROMPT = "A river flows."
NUM_TOKENS = 16


@pytest.fixture
def model(tmp_path: Path) -> PreTrainedModel:
    """Write a tiny checkpoint to `tmp_path`/model."""
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 3,
    }
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    tokenizer = write_tokenizer(tmp_path)
    model = save_checkpoint(
        "cwm", tmp_path / "model", vocab_size=tokenizer.get_vocab_size(), **sizes, **special
    )
    write_tokenizer(tmp_path / "model")
    return model


def install(site: Path) -> str:
    """Write the example's metadata to `site`, as pip does. Returns the PYTHONPATH to find it."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = project["entry-points"].items()
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in groups
    ]
    (info / "entry_points.txt").write_text("".join(lines))
    return os.pathsep.join([str(site), str(EXAMPLE), os.environ.get("PYTHONPATH", "")])


def test_equals_transformers(
    model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(load_spec(tmp_path / "model"), GenericSpec)  # not a built-in family
    for folder in reversed(install(tmp_path / "site").split(os.pathsep)):
        monkeypatch.syspath_prepend(folder)

    spec = load_spec(tmp_path / "model")

    assert isinstance(spec, ModelSpec)
    decoder = build_decoder(spec, REFERENCE, torch.float32, "cpu")
    load_weights(decoder, tmp_path / "model", lambda done, total: None)
    sequence = PagedSequence([5, 80, 3, 44, 201, 17, 9], [1, 2])
    cache = KVCache.allocate(spec, 4, 4, torch.float32, "cpu")
    with torch.inference_mode():
        step(decoder, cache, [(sequence, 5)])
        step(decoder, cache, [(sequence, 2)])
        expected = model(torch.tensor([sequence.token_ids])).logits[0]
    assert float((torch.stack(sequence.logits) - expected).abs().max()) < 1e-4


def test_is_served(model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", install(tmp_path / "site"))
    arguments = ("--max-total-tokens", "64", "--max-input-tokens", "40")
    parameters = {"max_new_tokens": NUM_TOKENS, "details": True, "ignore_eos": True}
    with running_server(tmp_path / "model", "cpu", tmp_path / "log", *arguments) as server:
        response = httpx.post(
            f"{server.url}/generate", json={"inputs": PROMPT, "parameters": parameters}, timeout=60
        )
    assert response.status_code == 200, response.text
    prompt = Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json")).encode(PROMPT).ids
    tokens = prompt + [token["id"] for token in response.json()["details"]["tokens"]]
    with torch.inference_mode():
        best = model(torch.tensor([tokens[:-1]])).logits[0].argmax(-1)
    assert tokens[-NUM_TOKENS:] == best[-NUM_TOKENS:].tolist()
