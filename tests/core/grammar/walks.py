"""Walks through grammars: texts as tokens of single bytes, and random texts."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import tgi.demo
from tests.core.text import tokenizer_parts
from tgi.grammar.compile import compile_constraint
from tgi.grammar.constraint import Constraint
from tgi.grammar.matcher import Matcher
from tgi.grammar.vocabulary import Vocabulary
from tgi.grammar.vocabulary_data import VocabularyData
from tgi.text.grammar_vocabulary import read_vocabulary
from tgi.text.tokenizer import Tokenizer
from tgi.types import Guidance

EOS, SECOND_EOS, THINK, END_THINK, IM_END = 256, 257, 258, 259, 260
CLOSING = frozenset({b'"', b"}", b"]"})
LONGER = (b'{"', b'":', b", ", b"ab", b"</", b"think", b">\n\n", b">x", b"  ", b"\n\n")
SPECIAL = (b"<eos>", b"<end>", b"<think>", b"</think>", b"<|im_end|>")


def byte_vocabulary(num_padding=45, eos=(EOS, SECOND_EOS)):
    """Ids 0 to 255 are the bytes, followed by `SPECIAL` and `LONGER`."""
    tokens = [bytes([byte]) for byte in range(256)] + [*SPECIAL, *LONGER]
    special = list(range(256, 256 + len(SPECIAL)))
    return Vocabulary(VocabularyData(tokens, special, eos, len(tokens) + num_padding))


def matcher_for(vocabulary, kind, value="", reasoning=None):
    grammar = compile_constraint(Constraint(kind, value))
    return Matcher(vocabulary, Guidance(grammar, reasoning))


def allowed_ids(matcher, vocabulary):
    """The ids that the next mask allows."""
    words = np.zeros(vocabulary.mask_width, np.int32)
    matcher.fill(words)
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")
    return [int(number) for number in np.flatnonzero(bits)]


def allowed_tokens(matcher, vocabulary):
    """The bytes of the tokens that the next mask allows."""
    return {vocabulary.table.tokens[number] for number in allowed_ids(matcher, vocabulary)}


def feed(matcher, text):
    """Accept a text byte by byte."""
    for byte in text if isinstance(text, bytes) else text.encode():
        matcher.accept(byte)


def is_accepted(matcher, text, vocabulary):
    """Whether the masks allow the text byte by byte, followed by EOS."""
    copy = matcher.copy()
    for byte in text.encode():
        if byte not in allowed_ids(copy, vocabulary):
            return False
        copy.accept(byte)
    return not copy.error and EOS in allowed_ids(copy, vocabulary)


def random_text(matcher, vocabulary, random, max_tokens=200):
    """A random text that the masks allow. None: the text is not complete after `max_tokens`.

    Tokens that end a string, an object or a list are preferred, so that most texts are complete.
    """
    copy = matcher.copy()
    data = b""
    for _ in range(max_tokens):
        ids = allowed_ids(copy, vocabulary)
        assert not copy.error, copy.error
        number = random.choice(ids)
        ends = [end for end in ids if end in vocabulary.eos_token_ids]
        closing = [end for end in ids if vocabulary.table.tokens[end] in CLOSING]
        if random.random() < 0.4:
            number = random.choice(ends or closing or ids)
        if number in vocabulary.eos_token_ids:
            return data.decode()
        data += vocabulary.table.tokens[number]
        copy.accept(number)
        assert not copy.error, copy.error
    return None


def demo_vocabulary():
    """The vocabulary of the demo model, a byte-level BPE tokenizer."""
    tokenizer = Tokenizer.load(Path(tgi.demo.__file__).parent / "model")
    return Vocabulary(read_vocabulary(tokenizer, tokenizer.vocab_size + 5))


def sentencepiece_vocabulary():
    """The vocabulary of a small tokenizer with byte fallback, in the layout of Llama 2."""
    backend = tokenizer_parts.llama2(["<unk>", "<s>", "</s>"])
    with TemporaryDirectory() as folder:
        backend.save(f"{folder}/tokenizer.json")
        config = {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
        Path(folder, "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        tokenizer = Tokenizer.load(Path(folder))
    return Vocabulary(read_vocabulary(tokenizer, tokenizer.vocab_size))
