"""Tokens that are named in several files or several times are those of `transformers`."""

import json
import random

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from tgi.text import Tokenizer
from tgi.text.token_bytes import byte_level_bytes

TEXTS = ["<s>", "</s>", "<pad>", "[X]", " y", "é", "foo bar", "<|im_end|>", "ab", "\n\n", "日本"]
PIECES = [*TEXTS, "a", "b", " ", "A", "<|", "\uff46", "\u0301"]
OPTIONS = ("single_word", "lstrip", "rstrip", "normalized", "special")
FIELDS = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token")
MERGES = [("Ġ", "a"), ("a", "b"), ("Ã", "©"), ("<", "|")]
NORMALIZERS = [
    None,
    normalizers.NFC(),
    normalizers.Lowercase(),
    normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    normalizers.Replace("a", "bb"),
]


def new_backend(rng):
    letters = [chr(code) for code in range(0x200) if len(byte_level_bytes(chr(code))) == 1]
    tokens = [*letters, *(first + second for first, second in MERGES)]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    backend = Backend(models.BPE(vocab=vocabulary, merges=MERGES))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=rng.random() < 0.3)
    backend.decoder = decoders.ByteLevel()
    backend.normalizer = rng.choice(NORMALIZERS)
    backend.add_tokens(
        [AddedToken(text, **options(rng)) for text in rng.sample(TEXTS, rng.randrange(4))]
    )
    return backend


def options(rng):
    return {name: rng.random() < 0.4 for name in OPTIONS}


def token(rng, text):
    return rng.choice([text, {"content": text, "__type": "AddedToken"} | options(rng)])


def config_of(rng, backend):
    config = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if rng.random() < 0.5:
        first = backend.get_vocab_size()
        ids = {text: backend.token_to_id(text) for text in rng.sample(TEXTS, rng.randrange(6))}
        config["added_tokens_decoder"] = {
            str(first + at if number is None else number): {"content": text} | options(rng)
            for at, (text, number) in enumerate(ids.items())
        }
    for field in FIELDS:
        if rng.random() < 0.5:
            config[field] = token(rng, rng.choice(TEXTS))
    if rng.random() < 0.5:
        config["additional_special_tokens"] = rng.sample(TEXTS, 2)
    if rng.random() < 0.3:
        extra = rng.sample(TEXTS, 2)
        config["extra_special_tokens"] = rng.choice([extra, {"image_token": "<|image|>"}, {}])
    if rng.random() < 0.2:
        config["split_special_tokens"] = rng.random() < 0.5
    return config


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(60))
def test_tokens_that_are_named_several_times_are_those_of_transformers(tmp_path, seed):
    rng = random.Random(seed)
    backend = new_backend(rng)
    backend.save(str(tmp_path / "tokenizer.json"))
    files = {
        "config.json": {"model_type": "llama"},
        "tokenizer_config.json": config_of(rng, backend),
    }
    if rng.random() < 0.3:
        files["special_tokens_map.json"] = {"eos_token": rng.choice(TEXTS)}
    if rng.random() < 0.3:
        files["added_tokens.json"] = {rng.choice(TEXTS): backend.get_vocab_size()}
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    ours, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for _ in range(8):
        text = "".join(rng.choices(PIECES, k=rng.randrange(1, 9)))
        ids = theirs(text)["input_ids"]
        assert ours.encode(text).ids == ids, (text, files)
        assert ours.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False)
    assert set(theirs.all_special_ids) <= ours.special_ids
    assert {theirs.eos_token_id} - {None} <= set(ours.eos_token_ids)
