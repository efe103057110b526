"""A tokenizer that was written by an attacker cannot end the process. A request that it cannot
encode or decode is rejected with one sentence, and others continue.
"""

import asyncio
import json
import os
import subprocess
import sys
from base64 import b64encode

import httpx
import pytest
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.decoders import Replace, Strip
from tokenizers.processors import TemplateProcessing

from tests.core.text.conftest import byte_level, save
from tests.live_server import running_server
from tgi.errors import GenerationError, ModelError, ValidationError
from tgi.testing.tiny_models import write_tiny_model
from tgi.text import Tokenizer as OurTokenizer
from tgi.text import TokenizerPool
from tgi.text.text_growth import MAX_NORMALIZED_LENGTH, growth

LONG = "a" * (1 << 20)
GROWING = {
    "a string": normalizers.Replace("a", LONG),
    "a regular expression": normalizers.Replace(Regex("a?"), LONG),
    "a chain": normalizers.Sequence([normalizers.Replace("a", "a" * 2000)] * 20),
    "a prefix": normalizers.Prepend(LONG),
}


def load(tokenizer, folder):
    return OurTokenizer.load(save(tokenizer, folder, tokenizer_config={}))


def growing(name):
    tokenizer = byte_level()
    tokenizer.normalizer = GROWING[name]
    return tokenizer


def catastrophic():
    tokenizer = byte_level()
    words = pre_tokenizers.Split(Regex(r"(x+x+)+y"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return tokenizer


def without_unknown():
    return Tokenizer(models.WordPiece({"a": 0, "b": 1}, unk_token="[UNK]"))


ATTACKS = {
    **{f"normalizer: {name}": (lambda name=name: growing(name), LONG) for name in GROWING},
    "pattern with retries": (catastrophic, "x" * 5000),
    "no unknown token": (without_unknown, "zzz"),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_a_text_that_cannot_be_encoded_rejects_its_request(name, tmp_path):
    build, text = ATTACKS[name]
    tokenizer = load(build(), tmp_path)
    pool = TokenizerPool(tokenizer, 2)
    try:
        harmless = "b"
        expected = tokenizer.encode(harmless, False).ids if "normalizer" not in name else None
        results = await asyncio.gather(
            pool.encode(text, False),
            pool.format_tokens(text, False),
            *([pool.encode(harmless, False)] if expected is not None else []),
            return_exceptions=True,
        )
    finally:
        pool.close()
    for error in results[:2]:
        assert isinstance(error, ValidationError)
        assert str(error).startswith("the tokenizer cannot encode the text: ")
        assert "\n" not in str(error)
    assert [result.ids for result in results[2:]] == [expected][: len(results) - 2]


@pytest.mark.parametrize("name", GROWING)
def test_the_growth_is_an_upper_bound(name):
    normalizer = GROWING[name]
    factor = growth(normalizer)
    assert factor * len(LONG) > MAX_NORMALIZED_LENGTH
    if name != "a chain":
        for text in ("a", "ba", "b"):
            assert len(normalizer.normalize_str(text)) <= factor * len(text)


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.NFC(),
        normalizers.NFD(),
        normalizers.NFKC(),
        normalizers.NFKD(),
        normalizers.Lowercase(),
        normalizers.ByteLevel(),
        normalizers.BertNormalizer(),
        normalizers.Nmt(),
        normalizers.StripAccents(),
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        normalizers.Replace(Regex(" {2,}"), "▁"),
        normalizers.Replace("ab", "abc"),
    ],
)
def test_the_growth_of_a_usual_normalizer_is_small_and_an_upper_bound(normalizer):
    factor = growth(normalizer)
    assert factor <= 18
    for text in ("\ufdfa", "İ", "a b", " ", "東", "ab" * 9, "\u0390", "🙂", "ﬃ"):
        assert len(normalizer.normalize_str(text)) <= factor * len(text), text


def test_the_replacements_of_a_sentencepiece_map_count():
    def charsmap(text):
        return {"type": "Precompiled", "precompiled_charsmap": b64encode(text).decode()}

    class Part:
        def __init__(self, description):
            self.description = description

        def __getstate__(self):
            return json.dumps(self.description).encode()

    trie = b"\x08\0\0\0" + b"\0" * 8
    assert growth(Part(charsmap(trie + b"abc\0" + b"x" * 5000 + b"\0"))) == 5000
    assert growth(Part(charsmap(trie + b"abc\0"))) == 18
    assert growth(Part(charsmap(b""))) == 18


def test_a_decoder_that_lengthens_tokens_is_rejected_at_startup(tmp_path):
    tokenizer = byte_level()
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), Replace("e", LONG)])
    with pytest.raises(ModelError, match=r"the decoder can turn a token of \d+ characters into"):
        load(tokenizer, tmp_path)


BEGIN = [("<s>", 0)]
TEMPLATES = {
    "copies": (TemplateProcessing(single=["$A"] * 50), "repeats a text 50 times"),
    "special tokens": (
        TemplateProcessing(single=["<s>"] * 5000 + ["$A"], special_tokens=BEGIN),
        "adds 5000 special tokens",
    ),
    "a chain": (
        processors.Sequence([TemplateProcessing(single="$A $A")] * 30),
        f"repeats a text {2**30} times",
    ),
    "ids of a token": (
        TemplateProcessing(
            single="<s> $A",
            special_tokens=[{"id": "<s>", "ids": [0] * 5000, "tokens": ["<s>"] * 5000}],
        ),
        "adds 5000 special tokens",
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_repeats_the_text_is_rejected_at_startup(name, tmp_path):
    tokenizer = byte_level()
    tokenizer.post_processor, words = TEMPLATES[name]
    with pytest.raises(ModelError, match=f"tokenizer.json: the post-processor .*{words}"):
        load(tokenizer, tmp_path)


def test_a_usual_template_is_accepted(tmp_path):
    tokenizer = byte_level()
    usual = TemplateProcessing(single="<s> $A <s>", special_tokens=BEGIN)
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), usual])
    assert load(tokenizer, tmp_path).encode("a").ids[0] == 0


def test_tokens_that_cannot_be_decoded_reject_their_request(tmp_path):
    tokenizer = byte_level()
    tokenizer.decoder = decoders.Sequence([decoders.Fuse(), Replace("e", ""), Strip(" ", 0, 1)])
    ours = load(tokenizer, tmp_path)
    token = tokenizer.token_to_id("e")
    assert ours.decode([tokenizer.token_to_id("a")]) == "a"
    with pytest.raises(GenerationError, match="the tokenizer cannot decode the tokens: "):
        ours.decode([token])


def test_a_server_continues_after_tokens_that_cannot_be_decoded(tmp_path):
    folder = tmp_path / "model"
    write_tiny_model(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    nothing = [decoders.Fuse(), Replace(Regex(".+"), ""), Strip(" ", 0, 1)]
    tokenizer.decoder = decoders.Sequence(nothing)
    tokenizer.save(str(folder / "tokenizer.json"))
    body = {"inputs": "Hello", "parameters": {"max_new_tokens": 4}}
    with running_server(folder, "null", tmp_path / "log") as server:
        for _ in range(2):
            response = httpx.post(f"{server.url}/generate", json=body)
            assert response.status_code == 424
            assert response.json()["error_type"] == "generation"
            assert "the tokenizer cannot decode the tokens: " in response.json()["error"]
            events = httpx.post(f"{server.url}/generate_stream", json=body).text
            assert "the tokenizer cannot decode the tokens: " in events
        assert httpx.get(f"{server.url}/health").status_code == 200
    assert "Traceback" not in (tmp_path / "log").read_text()


BRACKETS = """
import sys
from pathlib import Path
from tgi.errors import ModelError
from tgi.text import Tokenizer

try:
    Tokenizer.load(Path(sys.argv[1]))
except ModelError as error:
    print(error)
"""


@pytest.mark.parametrize("field", ["normalizer", "decoder", "pre_tokenizer", "post_processor"])
def test_nested_parts_cannot_end_the_process(tmp_path, field):
    inner = {"normalizer": "normalizers", "decoder": "decoders", "pre_tokenizer": "pretokenizers"}
    start = f'{{"type": "Sequence", "{inner.get(field, "processors")}": ['
    nested = start * 50_000 + "]}" * 50_000
    tokenizer = json.loads(byte_level().to_str()) | {field: "HERE"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer).replace('"HERE"', nested))
    child = subprocess.run(
        [sys.executable, "-c", BRACKETS, str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ,
        timeout=60,
        check=True,
    )
    assert "tokenizer.json: the tokenizer cannot be read" in child.stdout
