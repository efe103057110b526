"""The bytes of single tokens, for several kinds of tokenizers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from tgi.text.token_spelling import TokenSpelling

TEXTS = ["Hello world, a test", "naïve café", "日本語 😀", "def f(x):\n    return x\n"] * 5


def byte_level():
    """A byte-level tokenizer with so few tokens that characters are split."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet)
    )
    backend.add_tokens([AddedToken("<think>é", special=False, normalized=False)])
    return backend


def byte_fallback():
    """A tokenizer in the style of SentencePiece, with byte tokens for other characters."""
    pieces = [("<unk>", 0.0), *((f"<0x{value:02X}>", -20.0) for value in range(256))]
    letters = [(letter, -5.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    backend = Tokenizer(models.Unigram([*pieces, *letters, ("▁the", -1.0)], 0, True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return backend


def spelling_of(backend):
    return TokenSpelling(backend)


TOKENIZERS = {"byte level": byte_level(), "byte fallback": byte_fallback()}


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.text(max_size=12) | st.sampled_from(["a😀b", " the  the", "<think>é", "\n"]))
def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text(name, text):
    backend = TOKENIZERS[name]
    spelling = spelling_of(backend)
    assert b"".join(spelling.of(number) for number in backend.encode(text).ids) == text.encode()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_part_of_a_character_is_one_byte(name):
    backend = TOKENIZERS[name]
    ids = backend.encode("\U0001f9a9").ids
    assert [spelling_of(backend).of(number) for number in ids] == [
        b"\xf0",
        b"\x9f",
        b"\xa6",
        b"\xa9",
    ]


def test_other_vocabularies_do_not_contain_the_bytes():
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    assert spelling_of(backend).of(2) is None
    assert spelling_of(byte_level()).of(10**6) is None
