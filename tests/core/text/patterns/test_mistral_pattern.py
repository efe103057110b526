"""The field `fix_mistral_regex` has the effect that it has in `transformers.AutoTokenizer`."""

import json

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from tests.core.text import tokenizer_parts as parts
from tgi.text import Tokenizer

WRONG = rf"{parts._LETTERS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXTS = ["theQuick HELLOWorld éA 12", "a/b\n\n  Yes, it's 東京"]
SPECIAL = ["<unk>", "<s>", "</s>"]
FILES = {
    "fixed": ({"transformers_version": "4.57.0"}, True, 100_100),
    "without a version": ({}, True, 100_100),
    "other type": ({"model_type": "llama"}, True, 100_100),
    "new version": ({"transformers_version": "5.0.1"}, True, 100_100),
    "not requested": ({}, False, 100_100),
    "field missing": ({}, None, 100_100),
    "small vocabulary": ({}, True, 100),
}

CASES = [
    *((name, None) for name in FILES),
    ("fixed", pre_tokenizers.ByteLevel(False)),
    ("fixed", pre_tokenizers.Metaspace()),
]


def backend_with(num_fillers, words):
    data = json.loads(parts.byte_level(parts.byte_level_words(WRONG), SPECIAL).to_str())
    vocab = data["model"]["vocab"]
    first = len(vocab)
    vocab |= {f"<filler {number}>": first + number for number in range(num_fillers)}
    backend = Backend.from_str(json.dumps(data))
    if words is not None:
        backend.pre_tokenizer = words
    return backend


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "words"), CASES)
def test_the_pattern_is_that_of_transformers(tmp_path, name, words):
    config, value, num_fillers = FILES[name]
    backend_with(num_fillers, words).save(str(tmp_path / "tokenizer.json"))
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
    if value is not None:
        fields["fix_mistral_regex"] = value
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mistral"} | config))
    ours, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    found = json.loads(ours.backend.to_str())["pre_tokenizer"]
    assert found == json.loads(theirs.backend_tokenizer.to_str())["pre_tokenizer"]
    for text in TEXTS:
        assert ours.encode(text).ids == theirs(text)["input_ids"]
