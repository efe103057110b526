"""Tests of the vocabulary that is read from a tokenizer."""

import json
from pathlib import Path

import pytest
import tokenizers

import tgi.demo
from tests.core.text import tokenizer_parts
from tgi.grammar.constraint import GrammarError
from tgi.text.grammar_vocabulary import VocabularyReader, read_vocabulary
from tgi.text.tokenizer import Tokenizer

TEXT = 'A {"text": [1, 2]} with é, 東京 and 🙂.\n\tEnd'


def loaded(backend, folder, **config):
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return Tokenizer.load(folder)


def text_of(data, tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return b"".join(data.tokens[number] for number in ids)


def test_byte_level_tokenizer():
    tokenizer = Tokenizer.load(Path(tgi.demo.__file__).parent / "model")
    data = read_vocabulary(tokenizer, tokenizer.vocab_size + 64)
    assert text_of(data, tokenizer, TEXT) == TEXT.encode()
    assert data.eos_token_ids == tokenizer.eos_token_ids
    assert set(data.special_ids) == tokenizer.special_ids
    assert data.vocab_size == tokenizer.vocab_size + 64


def test_byte_fallback(tmp_path):
    backend = tokenizer_parts.llama2(["<unk>", "<s>", "</s>"])
    tokenizer = loaded(backend, tmp_path, eos_token="</s>", unk_token="<unk>")
    data = read_vocabulary(tokenizer, tokenizer.vocab_size)
    assert text_of(data, tokenizer, TEXT) == b" " + TEXT.encode()
    assert data.tokens[backend.token_to_id("<0x0A>")] == b"\n"
    assert {data.tokens[number] for number in data.special_ids} == {b"<unk>", b"<s>", b"</s>"}


def test_added_tokens_that_are_not_special_are_text(tmp_path):
    backend = tokenizer_parts.byte_level(tokenizer_parts.byte_level_words(), ["<eos>"])
    backend.add_tokens(["<tool_call>"])
    tokenizer = loaded(backend, tmp_path, eos_token="<eos>")
    data = read_vocabulary(tokenizer, tokenizer.vocab_size)
    number = backend.token_to_id("<tool_call>")
    assert data.tokens[number] == b"<tool_call>"
    assert number not in data.special_ids


def test_tokens_beyond_the_model_are_cut():
    tokenizer = Tokenizer.load(Path(tgi.demo.__file__).parent / "model")
    assert len(read_vocabulary(tokenizer, 1000).tokens) == 1000


def test_tokenizer_that_changes_texts_is_rejected(tmp_path):
    backend = tokenizer_parts.byte_level(
        tokenizer_parts.byte_level_words(), [], normalizer=tokenizers.normalizers.Lowercase()
    )
    tokenizer = loaded(backend, tmp_path)
    with pytest.raises(GrammarError, match="the tokenizer changes texts"):
        read_vocabulary(tokenizer, tokenizer.vocab_size)


def test_token_with_another_text_is_never_allowed(tmp_path):
    """The decoder writes one token in another way than its bytes."""
    backend = tokenizer_parts.llama2(["<unk>", "<s>", "</s>"])
    backend.add_tokens(["~▁~"])
    tokenizer = loaded(backend, tmp_path, unk_token="<unk>")
    data = read_vocabulary(tokenizer, tokenizer.vocab_size)
    assert data.tokens[backend.token_to_id("~▁~")] == b""


def test_a_reader_reads_once():
    tokenizer = Tokenizer.load(Path(tgi.demo.__file__).parent / "model")
    reader = VocabularyReader(tokenizer, 2048)
    assert reader.get() is reader.get()
    assert reader.get().data.vocab_size == reader.get().vocabulary.tokenizer.vocab_size == 2048


def test_a_reader_raises_its_error_again(tmp_path):
    backend = tokenizer_parts.byte_level(
        tokenizer_parts.byte_level_words(), [], normalizer=tokenizers.normalizers.Lowercase()
    )
    reader = VocabularyReader(loaded(backend, tmp_path), 300)
    for _ in range(2):
        with pytest.raises(GrammarError, match="the tokenizer changes texts"):
            reader.get()
