"""The tokenizer: ids, offsets, truncation, special tokens and invalid files."""

import asyncio
import dataclasses
import json

import pytest
import tokenizers as backends
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models

from tgi.errors import ModelError, ValidationError
from tgi.text import Tokenizer, TokenizerPool

from .conftest import byte_level, save, sentencepiece_like


@pytest.fixture(scope="module")
def llama_like(tmp_path_factory):
    return Tokenizer.load(save(sentencepiece_like(), tmp_path_factory.mktemp("llama_like")))


@pytest.fixture(scope="module")
def gpt_like(tmp_path_factory):
    return Tokenizer.load(save(byte_level(), tmp_path_factory.mktemp("gpt_like")))


def test_special_tokens_are_added_on_demand(llama_like):
    with_bos, without = llama_like.encode("hello", True).ids, llama_like.encode("hello", False).ids
    assert with_bos == [0, *without]
    assert llama_like.decode(with_bos, skip_special_tokens=True) == "hello"


@pytest.mark.parametrize("size", range(1, 9))
def test_truncation_keeps_the_bos_and_the_end(llama_like, size):
    whole = llama_like.encode("The quick brown fox").ids
    assert (
        llama_like.encode("The quick brown fox", True, size).ids
        == [0, *whole[len(whole) - size + 1 :]][:size]
    )
    assert llama_like.encode("The quick brown fox", False, size).ids == whole[-size:]
    assert llama_like.encode("The quick brown fox", True, len(whole)).ids == whole


def test_truncation_of_a_tokenizer_without_special_tokens(gpt_like):
    whole = gpt_like.encode("The quick brown fox").ids
    assert gpt_like.encode("The quick brown fox", True, 3).ids == whole[-3:]


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_offsets_are_bytes(gpt_like, text):
    data = text.encode()
    spans = list(gpt_like.tokenize(text))
    assert all(span.text == data[span.start : span.stop].decode(errors="replace") for span in spans)
    assert b"".join(data[span.start : span.stop] for span in spans) == data or len(data) != len(
        text
    )


def test_an_added_bos_has_an_empty_span(llama_like):
    first, second, *_ = llama_like.tokenize("hé")
    assert (first.id, first.text, first.start, first.stop) == (0, "", 0, 0)
    assert second.start == 0
    assert list(llama_like.tokenize("hé"))[-1].stop == 3


def test_truncation_and_padding_settings_are_disabled(tmp_path):
    tokenizer = byte_level()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=50)
    loaded = Tokenizer.load(save(tokenizer, tmp_path))
    assert len(loaded.encode("The quick brown fox jumps").ids) == len(
        byte_level().encode("The quick brown fox jumps").ids
    )


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, (1,)),
        ({"config": {"eos_token_id": 2}}, (2, 1)),
        ({"config": {"eos_token_id": 2}, "generation_config": {"eos_token_id": [3, 2]}}, (3, 2, 1)),
        ({"config": {"eos_token_id": 0}, "generation_config": {"eos_token_id": 3}}, (3, 0, 1)),
        ({"config": {"text_config": {"eos_token_id": [2, 5]}}}, (2, 5, 1)),
        ({"generation_config": {"temperature": 1.0}}, (1,)),
        ({"tokenizer_config": {}}, ()),
        ({"tokenizer_config": {}, "special_tokens_map": {"eos_token": "<|im_end|>"}}, (2,)),
    ],
)
def test_the_eos_ids_are_those_of_all_files(tmp_path, files, expected):
    assert Tokenizer.load(save(byte_level(), tmp_path, **files)).eos_token_ids == expected


def test_vocab_and_merges_are_sufficient(tmp_path):
    byte_level().model.save(str(tmp_path))
    loaded = Tokenizer.load(tmp_path)
    text = "Hello world 🙂"
    assert loaded.decode(loaded.encode(text).ids) == text


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"version": "1.0"}', b"\xff\xfe"])
def test_an_invalid_file_is_a_one_line_error(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(
        ModelError, match=r"tokenizer\.json: the tokenizer cannot be read"
    ) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_invalid_config_is_reported(tmp_path):
    save(byte_level(), tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(
        ModelError, match=r"tokenizer_config\.json: the file cannot be read as a JSON object"
    ):
        Tokenizer.load(tmp_path)


def test_a_missing_tokenizer_reports_the_required_files(tmp_path):
    message = r"neither tokenizer\.json nor vocab\.json with merges\.txt"
    with pytest.raises(ModelError, match=message):
        Tokenizer.load(tmp_path)


async def test_a_pool_returns_the_same_ids(llama_like):
    pool = TokenizerPool(llama_like, 2)
    try:
        texts = ["hello world", "The fox", "🙂"] * 5
        results = await asyncio.gather(*(pool.encode(text, True, None) for text in texts))
        assert [r.ids for r in results] == [llama_like.encode(text).ids for text in texts]
        blocks = await pool.format_tokens("hé")
        found = json.loads(b"[%b]" % b"".join(blocks))
        assert found == [dataclasses.asdict(span) for span in llama_like.tokenize("hé")]
    finally:
        pool.close()


def test_tokens_beyond_the_embedding_are_found(tmp_path):
    backend = byte_level()
    size = backend.get_vocab_size()
    backend.add_special_tokens(["<|beyond|>"])
    tokenizer = Tokenizer.load(save(backend, tmp_path))
    assert tokenizer.tokens_from(size) == [(size, "<|beyond|>")]
    assert tokenizer.tokens_from(size + 1) == []


@pytest.mark.parametrize("value", ["257", True, 1.0, [2, "3"], {"id": 2}])
@pytest.mark.parametrize("name", ["generation_config", "config"])
def test_an_eos_token_id_that_is_no_number_is_reported(tmp_path, name, value):
    save(byte_level(), tmp_path, **{name: {"eos_token_id": value}})
    with pytest.raises(ModelError, match=rf"{name}\.json: `eos_token_id` must be a token id"):
        Tokenizer.load(tmp_path)


def test_a_negative_eos_token_id_means_that_there_is_none(tmp_path):
    save(byte_level(), tmp_path, generation_config={"eos_token_id": -1})
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.eos_token_ids == (tokenizer.backend.token_to_id("</s>"),)
    assert tokenizer.notices == (
        "`eos_token_id` in generation_config.json contains -1, which is not a token id and is"
        " ignored.",
    )


@pytest.mark.parametrize("number", [5000, 1 << 32, 10**30])
def test_an_eos_token_id_without_a_token_is_reported(tmp_path, number):
    save(byte_level(), tmp_path, config={"eos_token_id": [1, number]})
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.notices == (
        f"`eos_token_id` in config.json contains {number}, which is not a token of the tokenizer.",
    )


def test_a_text_that_the_library_cannot_encode_is_an_error_of_the_request(tmp_path):
    backend = backends.Tokenizer(models.WordPiece({"a": 0}, unk_token="[UNK]"))
    tokenizer = Tokenizer.load(save(backend, tmp_path))
    for encode in (tokenizer.encode, lambda text: list(tokenizer.tokenize(text))):
        with pytest.raises(ValidationError, match=r"the tokenizer cannot encode the text: .*UNK"):
            encode("zzz")


def test_a_panic_of_the_library_is_an_error_of_the_request(llama_like):
    class Panic(BaseException):
        """Like the library's `PanicException`, which is not derived from `Exception`."""

    class Panicking:
        def encode_batch_fast(self, *_, **__):
            raise Panic("called `Result::unwrap()` on an\n`Err` value")

    tokenizer = dataclasses.replace(llama_like, backend=Panicking())
    with pytest.raises(ValidationError, match=r"on an `Err` value"):
        tokenizer.encode("a")
