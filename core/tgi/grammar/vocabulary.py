"""The vocabulary of a model as bytes, from which token masks are computed."""

from __future__ import annotations

from threading import Lock
from typing import Final, final

from llguidance import LLTokenizer

from tgi.grammar.tags import Tag
from tgi.grammar.token_table import TokenTable
from tgi.grammar.vocabulary_data import VocabularyData

__all__ = ["Vocabulary"]

_SPECIAL_MARK: Final = b"\xff"
"""The first byte of special tokens in llguidance. The byte occurs in no UTF-8 text."""


@final
class Vocabulary:
    """The tokens of a model, prepared for masks. It can be used from several threads. Construction
    takes up to a second for 150,000 tokens.

    A mask is an array of int32 words [mask_width]. Bit `i % 32` of word `i // 32` is set if token
    `i` is allowed.
    """

    def __init__(self, data: VocabularyData) -> None:
        size = data.vocab_size
        tokens = data.tokens[:size]
        self.table = TokenTable(tokens + [b""] * (size - len(tokens)))
        self.mask_width = self.table.mask_width
        self.eos_token_ids = tuple(number for number in data.eos_token_ids if 0 <= number < size)
        self.special_ids = frozenset(
            number
            for number in (*data.special_ids, *self.eos_token_ids)
            if 0 <= number < size and self.table.tokens[number]
        )
        self.tokenizer = _tokenizer(self.table.tokens, self.eos_token_ids, self.special_ids)
        # A model without EOS has an additional id in llguidance.
        self.parser_mask_width = -(-self.tokenizer.vocab_size // 32)
        self.eos_mask = self.table.mask_of(self.eos_token_ids)
        named = (number for number, token in enumerate(self.table.tokens) if token)
        self.text_mask = self.table.mask_of(named) & ~self.eos_mask  # any text, but no EOS
        self._tags: dict[str, Tag] = {}
        self._lock = Lock()

    def tag(self, text: str) -> Tag:
        """The tag with this text. Raises `GrammarError` if the tokens cannot express the tag."""
        with self._lock:
            if text not in self._tags:
                self._tags[text] = Tag(self.table, text, self.text_mask)
            return self._tags[text]


@final
class _TokenSource:
    """The tokens in the form that the constructor of `LLTokenizer` reads."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokens: list[bytes], eos_token_id: int | None, special: list[int]) -> None:
        self.tokens = tokens
        self.eos_token_id = eos_token_id
        self.special_token_ids = special

    def __call__(self, text: str) -> list[int]:
        """The parser calls this function only to force tokens. All our grammars disable forced
        tokens, so that the model chooses how it divides a text into tokens.
        """
        raise NotImplementedError


def _tokenizer(
    tokens: list[bytes], eos_token_ids: tuple[int, ...], special_ids: frozenset[int]
) -> LLTokenizer:
    special = {*special_ids, *eos_token_ids}
    # An ordinary token with the mark of special tokens is never a part of a text.
    texts = [
        token if number in special or not token.startswith(_SPECIAL_MARK) else b""
        for number, token in enumerate(tokens)
    ]
    eos = list(eos_token_ids)
    source = _TokenSource(texts, eos[0] if eos else None, sorted(special))
    return LLTokenizer(source, eos_token=eos or None)  # type: ignore[arg-type]
