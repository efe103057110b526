"""Reads the vocabulary for grammars from the tokenizer of a model."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Final, final

from tgi.grammar.constraint import GrammarError
from tgi.grammar.vocabulary_data import VocabularyData
from tgi.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tgi.grammar.vocabulary import Vocabulary

__all__ = ["PreparedVocabulary", "VocabularyReader", "read_vocabulary"]

_PROBES: Final = (
    '{"name": "value", "list": [1, -2.5e+10, true, false, null]}',
    "The quick brown fox; it's 12345 o'clock, isn't it? (Yes!) <tag> & #1 $5 50% a_b a/b \\n",
    "A  text with   several spaces, a line break\nand a tab\tbetween its words.",
    "Größe, naïve façade; 東京は大きい。 Привет, мир! مرحبا ¿Qué tal? 🙂",
)
_NUM_CHECKED: Final = 4096  # tokens that are decoded in one call
_MAX_DIFFERENT: Final = 0.01  # share of tokens whose text is not the text of their bytes


@final
@dataclass(frozen=True)
class PreparedVocabulary:
    """The vocabulary as data for the engine, and as an object for the checks of grammars."""

    data: VocabularyData
    vocabulary: Vocabulary


@final
class VocabularyReader:
    """Reads the vocabulary of a tokenizer when it is first needed. It can be used from several
    threads.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._lock = Lock()
        self._prepared: PreparedVocabulary | GrammarError | None = None

    def get(self) -> PreparedVocabulary:
        """The vocabulary. The first call takes up to a few seconds, and llguidance does not release
        the GIL for a part of this time: 100 ms for 50,000 tokens. Raises `GrammarError` as
        `read_vocabulary`.
        """
        # llguidance is imported here, so that the startup does not wait for the import.
        from tgi.grammar.vocabulary import Vocabulary  # noqa: PLC0415 - see above

        with self._lock:
            if self._prepared is None:
                try:
                    data = read_vocabulary(self._tokenizer, self._vocab_size)
                    self._prepared = PreparedVocabulary(data, Vocabulary(data))
                except GrammarError as error:
                    self._prepared = error
        if isinstance(self._prepared, GrammarError):
            raise GrammarError(str(self._prepared))
        return self._prepared


def read_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> VocabularyData:
    """The bytes of all tokens. `vocab_size` is the number of logits of the model. Takes up to a few
    seconds.

    A token whose decoded text differs from its bytes has no bytes in the result, so that no mask
    allows it. Raises `GrammarError` with the reason if the tokenizer does not keep a text as it is,
    or if the bytes of its tokens are unknown. Then grammars cannot be used with this model.
    """
    special = {number for number in tokenizer.special_ids if number >= 0}
    ids = set(tokenizer.backend.get_vocab(with_added_tokens=True).values())
    size = max(ids, default=-1) + 1
    tokens = [_bytes_of(tokenizer, number) if number in ids else b"" for number in range(size)]
    _check_probes(tokenizer, tokens)
    ordinary = [number for number, token in enumerate(tokens) if token and number not in special]
    different = _different_tokens(tokenizer, tokens, ordinary)
    if len(different) > _MAX_DIFFERENT * len(ordinary):
        shown = tokenizer.backend.id_to_token(different[0])
        raise GrammarError(
            f"the tokenizer decodes {len(different)} of {len(ordinary)} tokens to other texts than"
            f" their bytes, for example {shown!r}, so grammars cannot be used with this model"
        )
    for number in different:
        tokens[number] = b""
    return VocabularyData(tokens[:vocab_size], sorted(special), tokenizer.eos_token_ids, vocab_size)


def _bytes_of(tokenizer: Tokenizer, token_id: int) -> bytes:
    return tokenizer.spelling.of(token_id) or b""


def _check_probes(tokenizer: Tokenizer, tokens: list[bytes]) -> None:
    """Raises `GrammarError` if a text changes when it is encoded and decoded, or if it differs from
    the bytes of its tokens. A SentencePiece tokenizer adds a space before a text.
    """
    for index, text in enumerate(_PROBES):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        found = b"".join(tokens[number] if number < len(tokens) else b"" for number in ids)
        decoded = tokenizer.decode(ids)
        if decoded == text and found in {text.encode(), b" " + text.encode()}:
            continue
        # A model without tokens for all scripts can still generate texts in its own scripts.
        if index == len(_PROBES) - 1 and _has_unknown(tokenizer, ids):
            continue
        raise GrammarError(
            f"the tokenizer changes texts (it turns {text!r} into {decoded!r}), so grammars cannot"
            " be used with this model"
        )


def _has_unknown(tokenizer: Tokenizer, token_ids: list[int]) -> bool:
    unknown = tokenizer.special_tokens.get("unk_token", "<unk>")
    return tokenizer.backend.token_to_id(unknown) in token_ids


def _different_tokens(tokenizer: Tokenizer, tokens: list[bytes], ids: list[int]) -> list[int]:
    """The tokens that, after another token, are not decoded to their bytes. Tokens that are a part
    of a character are not compared.
    """
    first = next((number for number in ids if tokens[number] == b"a"), None)
    if first is None:
        raise GrammarError(
            "the tokenizer has no token for the letter a, so grammars cannot be used with this"
            " model"
        )
    different: list[int] = []
    for start in range(0, len(ids), _NUM_CHECKED):
        part = ids[start : start + _NUM_CHECKED]
        texts = tokenizer.backend.decode_batch(
            [[first, number] for number in part], skip_special_tokens=False
        )
        different += [
            number
            for number, text in zip(part, texts, strict=True)
            if _is_different(text, b"a" + tokens[number])
        ]
    return different


def _is_different(text: str, data: bytes) -> bool:
    try:
        return data.decode() != text
    except UnicodeDecodeError:
        return False
