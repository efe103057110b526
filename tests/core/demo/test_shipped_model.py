"""The files of the demo model: size, format and model card."""

import json
import struct
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tgi.architectures.registry import load_spec
from tgi.demo import demo_draft_path, demo_model_path
from tools.train_demo.chat_format import CHAT_TEMPLATE, END
from tools.train_demo.scoring import GROUPS

ROOT = Path(__file__).parents[3]
MODEL = ROOT / "core/tgi/demo/model"
DRAFT = ROOT / "core/tgi/demo/draft"
CARD = ROOT / "docs/demo-model.md"
LIMITS = {MODEL: 6_000_000, DRAFT: 1_000_000}


def tensors(path):
    """Return the header of a safetensors file without its metadata."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return header


def test_the_shipped_models_are_found():
    lines = []
    assert demo_model_path(lines.append) == MODEL
    assert len(lines) == 1
    assert demo_draft_path() == DRAFT


@pytest.mark.parametrize("directory", [MODEL, DRAFT], ids=["main", "draft"])
def test_size(directory):
    header = tensors(directory / "model.safetensors")
    parameters = 0
    for tensor in header.values():
        assert tensor["dtype"] == "BF16"
        begin, end = tensor["data_offsets"]
        parameters += (end - begin) // 2
    assert 100_000 < parameters <= LIMITS[directory]
    assert sum(file.stat().st_size for file in directory.iterdir()) <= 12_000_000


@pytest.mark.parametrize("directory", [MODEL, DRAFT], ids=["main", "draft"])
def test_the_files_are_consistent(directory):
    spec = load_spec(directory)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    config = json.loads((directory / "config.json").read_text())
    assert (
        spec.vocab_size
        == tokenizer.get_vocab_size()
        == tensors(directory / "model.safetensors")["model.embed_tokens.weight"]["shape"][0]
    )
    assert config["eos_token_id"] == tokenizer.token_to_id(END)
    assert (
        json.loads((directory / "generation_config.json").read_text())["eos_token_id"]
        == config["eos_token_id"]
    )
    assert (
        json.loads((directory / "tokenizer_config.json").read_text())["chat_template"]
        == CHAT_TEMPLATE
    )


def test_both_models_share_the_tokenizer():
    assert (MODEL / "tokenizer.json").read_bytes() == (DRAFT / "tokenizer.json").read_bytes()


def test_every_digit_is_a_token():
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    text = '12345 + 67 = 890 {"a": 1}'
    encoded = tokenizer.encode(text, add_special_tokens=False)
    assert [token for token in encoded.tokens if any(map(str.isdigit, token))] == list(
        "12345678901"
    )
    assert tokenizer.decode(encoded.ids) == text


def test_the_card_contains_the_scores_and_the_loss_curve():
    card = CARD.read_text(encoding="utf-8")
    for description in GROUPS.values():
        assert f"| {description} |" in card
    assert "](demo-model-loss.png)" in card
    assert (CARD.parent / "demo-model-loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_model_folder_contains_the_card():
    card = CARD.read_text(encoding="utf-8").replace(
        "(demo-model-loss.png)", "(../../../../docs/demo-model-loss.png)"
    )
    assert (MODEL / "README.md").read_text(encoding="utf-8") == card
