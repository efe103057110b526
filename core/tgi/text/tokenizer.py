"""Converts text to token ids and token ids to text with the model's tokenizer. The ids of a
sequence can be converted together or one by one.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import accumulate, islice, takewhile
from pathlib import Path
from typing import TypeVar, final

import msgspec
import tokenizers

from tgi.errors import GenerationError, ModelError, TgiError, ValidationError
from tgi.text.text_growth import MAX_NORMALIZED_LENGTH
from tgi.text.token_bytes import byte_level_bytes, byte_tokens, is_byte_level
from tgi.text.token_spelling import TokenSpelling
from tgi.text.tokenizer_files import load_backend, read_tokens

__all__ = ["Detokenizer", "Encoding", "TokenSpan", "Tokenizer", "json_blocks"]

_NUM_CONTEXT_TOKENS = 5
_MAX_CHARACTER_BYTES = 4
_MAX_WAITING_TOKENS = 4  # a character has at most 4 bytes, and each can be a token
_REPLACEMENT = "\ufffd"  # the decoded text of an incomplete character

_MIN_TEXT_LENGTH = 1 << 16  # characters
_NUM_MARGIN_TOKENS = 64  # tokens near the point where the text is truncated may differ
_NUM_BLOCK_TOKENS = 1024  # number of tokens that are formatted in one call
_MAX_REASON = 200  # maximum number of characters of an error message of the tokenizers library

ResultT = TypeVar("ResultT")


@final
@dataclass(frozen=True)
class Encoding:
    """The token ids of a text."""

    ids: list[int]


@final
@dataclass(frozen=True)
class TokenSpan:
    """A token and its position: byte offsets in the UTF-8 encoding of the text. The range of a
    special token that the tokenizer added is empty.
    """

    id: int
    text: str
    start: int
    stop: int


@final
@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer of a model. It can be used from several threads."""

    backend: tokenizers.Tokenizer
    special_ids: frozenset[int]
    eos_token_ids: tuple[int, ...]
    # Maps fields of the config, such as `bos_token`, to the text of the token.
    special_tokens: dict[str, str]
    max_token_length: int  # in characters
    is_byte_level: bool = False  # whether every token represents bytes
    # The normalizer produces at most this many characters for each character of the input.
    growth: int = 1
    notices: tuple[str, ...] = ()  # log lines about the files, for startup
    folder: Path | None = None  # the folder of the files
    # The texts of single ids, at most one entry per id.
    _texts: dict[int, str] = field(default_factory=dict, repr=False)
    # The bytes of tokens, at most one entry per id. Contains all tokens for single bytes.
    _bytes: dict[int, bytes] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, model_path: Path) -> Tokenizer:
        """Read the tokenizer of the model. Raises `ModelError` with the name of the file."""
        loaded = _call_library(partial(_cannot_read, model_path), partial(load_backend, model_path))
        files = _call_library(
            partial(_cannot_read_tokens, model_path), partial(read_tokens, model_path, loaded)
        )
        backend = files.backend
        return cls(
            backend,
            files.special_ids,
            files.eos_token_ids,
            files.special_tokens,
            max_token_length=max(map(len, backend.get_vocab()), default=1),
            is_byte_level=is_byte_level(backend),
            growth=files.growth,
            notices=files.notices,
            folder=model_path,
            _bytes=byte_tokens(backend),
        )

    @property
    def vocab_size(self) -> int:
        """The number of ids of the tokenizer, including added tokens."""
        return self.backend.get_vocab_size()

    def tokens_from(self, first_id: int) -> list[tuple[int, str]]:
        """The tokens with an id of at least `first_id`, by id.

        The result is empty, and no token is examined, if the number of tokens is at most `first_id`
        and the ids of the added tokens are below `first_id`.
        """
        added = self.backend.get_added_tokens_decoder()
        if self.vocab_size <= first_id and max(added, default=0) < first_id:
            return []
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        return sorted((number, text) for text, number in vocabulary.items() if number >= first_id)

    def encode(
        self, text: str, add_special_tokens: bool = True, truncate: int | None = None
    ) -> Encoding:
        """The token ids of `text`.

        `truncate` is the maximum number of ids. The special tokens that the tokenizer adds are
        kept. Of the ids of the text itself, the last ones are kept, so that the result has
        `truncate` ids (TGI's left truncation). If `truncate` is set, the start of a long text is
        removed before the text is tokenized.
        """
        if truncate is not None:
            text = text[-self.max_text_length(truncate + _NUM_MARGIN_TOKENS) :]
        encoding = self._encode(self.backend.encode_batch_fast, text, add_special_tokens)
        ids: list[int] = encoding.ids
        if truncate is not None and len(ids) > truncate:
            ids = _truncated(ids, encoding.special_tokens_mask, truncate)
        return Encoding(ids)

    def count(self, text: str, add_special_tokens: bool = True) -> int:
        """The number of token ids of `text`. The ids are not converted to a list, because the
        conversion of a million ids holds the GIL for about 40 ms.
        """
        return len(self._encode(self.backend.encode_batch_fast, text, add_special_tokens))

    def max_text_length(self, num_tokens: int) -> int:
        """A length in characters. Every text that is longer has more than `num_tokens` tokens.

        The length has a minimum (`_MIN_TEXT_LENGTH`), because a normalizer may remove characters,
        and because it is cheap to tokenize a short text.
        """
        return max(num_tokens * self.max_token_length, _MIN_TEXT_LENGTH)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of `ids`. Ids that are unknown to the tokenizer have no text. Raises
        `GenerationError` if the library cannot decode the ids.
        """
        decode = partial(self.backend.decode, ids, skip_special_tokens=skip_special_tokens)
        return _call_library(_cannot_decode, decode)

    def token_text(self, token_id: int) -> str:
        """The text of one id, decoded without context."""
        text = self._texts.get(token_id)
        if text is None:
            text = self._texts[token_id] = self.decode([token_id])
        return text

    def bytes_of(self, token_id: int) -> bytes | None:
        """The bytes of a token, or None if the token does not represent bytes. The result
        is empty for an id that is unknown to a byte-level tokenizer.
        """
        data = self._bytes.get(token_id)
        if data is None and self.is_byte_level:
            data = byte_level_bytes(self.backend.id_to_token(token_id) or "")
            self._bytes[token_id] = data
        return data

    @cached_property
    def spelling(self) -> TokenSpelling:
        """Reads the bytes of single tokens from the vocabulary, for log probabilities."""
        return TokenSpelling(self.backend)

    def tokenize(self, text: str, add_special_tokens: bool = True) -> Iterator[TokenSpan]:
        """The tokens of `text` with their positions."""
        encoding = self._encode(self.backend.encode_batch, text, add_special_tokens)
        data = text.encode()
        byte_offsets = (
            range(len(data) + 1)
            if len(data) == len(text)
            else [0, *accumulate(len(c.encode()) for c in text)]
        )
        for index, number in enumerate(encoding.ids):
            # The offsets are read one by one, because `encoding.offsets` creates the whole list in
            # one call that holds the GIL.
            first, last = encoding.token_to_chars(index) or (0, 0)
            start, stop = byte_offsets[first], byte_offsets[last]
            yield TokenSpan(number, data[start:stop].decode(errors="replace"), start, stop)

    def format_tokens(self, text: str, add_special_tokens: bool = True) -> list[bytes]:
        """The tokens of `text` with their positions, as in `json_blocks`."""
        return json_blocks(self.tokenize(text, add_special_tokens))

    def _encode(
        self,
        encode_batch: Callable[..., list[tokenizers.Encoding]],
        text: str,
        add_special_tokens: bool,
    ) -> tokenizers.Encoding:
        """Encode one text with a batch function of the library. A batch function releases the GIL;
        `tokenizers.Tokenizer.encode` does not.

        Raises `ValidationError` if the library cannot encode the text, for example because the text
        contains a character for which the tokenizer has no token.
        """
        if len(text) * self.growth > MAX_NORMALIZED_LENGTH:
            raise ValidationError(
                f"the tokenizer cannot encode the text: its normalizer can turn {len(text)}"
                f" characters into {len(text) * self.growth} characters, but the limit is"
                f" {MAX_NORMALIZED_LENGTH}"
            )
        encode = partial(encode_batch, [text], add_special_tokens=add_special_tokens)
        [encoding] = _call_library(_cannot_encode, encode)
        return encoding


def json_blocks(spans: Iterator[TokenSpan]) -> list[bytes]:
    """Format tokens as JSON objects with commas between them. The result is a list of blocks,
    because one long text would have to be copied.
    """
    blocks: list[bytes] = []
    while block := list(islice(spans, _NUM_BLOCK_TOKENS)):
        text = msgspec.json.encode(block)[1:-1]
        blocks += [b",", text] if blocks else [text]
    return blocks


def _truncated(ids: list[int], special_mask: list[int], size: int) -> list[int]:
    num_before = sum(1 for _ in takewhile(bool, special_mask))
    num_after = (
        sum(1 for _ in takewhile(bool, reversed(special_mask))) if num_before < len(ids) else 0
    )
    before, after = ids[:num_before], ids[len(ids) - num_after :]
    num_kept = max(0, size - num_before - num_after)
    rest = ids[num_before : len(ids) - num_after]
    return [*before, *(rest[-num_kept:] if num_kept else ()), *after][:size]


def _call_library(to_error: Callable[[str], TgiError], function: Callable[[], ResultT]) -> ResultT:
    """Return the result of `function`. If the tokenizers library fails, raise the result of
    `to_error`, which is called with the reason.
    """
    try:
        return function()
    except (TgiError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    # The native library raises plain `Exception` objects. If its code panics, it raises an
    # exception that is derived only from `BaseException`.
    except BaseException as error:
        raise to_error(" ".join(str(error).split())[:_MAX_REASON]) from error


def _cannot_read(model_path: Path, reason: str) -> ModelError:
    whole = model_path / "tokenizer.json"
    path = whole if whole.exists() else model_path / "vocab.json"
    return ModelError(
        f"{path}: the tokenizer cannot be read: {reason}.", "Download the file again."
    )


def _cannot_read_tokens(model_path: Path, reason: str) -> ModelError:
    return ModelError(
        f"{model_path}: the tokens that the files name cannot be read: {reason}.",
        "Download tokenizer_config.json and added_tokens.json again.",
    )


def _cannot_encode(reason: str) -> ValidationError:
    return ValidationError(f"the tokenizer cannot encode the text: {reason}")


def _cannot_decode(reason: str) -> GenerationError:
    return GenerationError(f"the tokenizer cannot decode the tokens: {reason}")


@final
class Detokenizer:
    """Converts the tokens of one sequence to pieces of text.

    Tokens that represent bytes are decoded as UTF-8. A piece contains all complete characters. At
    most three bytes of an incomplete character wait for the next tokens. Bytes that cannot become a
    character are shown as U+FFFD.

    The text of a token that does not represent bytes depends on the tokens before it: a leading
    space may be dropped. The detokenizer therefore decodes a short window of tokens. The piece of a
    token is the text that the token adds to the window.

    The joined pieces are equal to the decoded text. Special tokens must not be pushed.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int]) -> None:
        self._decode = tokenizer.decode
        self._token_text = tokenizer.token_text
        self._bytes_of = tokenizer.bytes_of
        self._is_byte_level = tokenizer.is_byte_level
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        last = [self._bytes_of(number) for number in prompt_token_ids[-_MAX_CHARACTER_BYTES:]]
        for data in last:
            # A character of the prompt may be completed by the output.
            self._utf8.decode(data or b"", final=data is None)
        # Invariant: the first `_num_read` characters of the window's text belong to the prompt or
        # have been returned. These characters are the text of the window's first `_read_offset`
        # ids.
        self._window: list[int] = []
        if not self._is_byte_level:
            self._window = list(prompt_token_ids[-_NUM_CONTEXT_TOKENS:])
        self._read_offset = len(self._window)
        self._num_read = len(self._decode(self._window)) if self._window else 0

    def push(self, token_id: int) -> str:
        """Add a token and return the text that it completes. The text may be empty."""
        data = self._bytes_of(token_id)
        if data is None:
            return self._push_token(token_id)
        if self._is_byte_level:
            return self._utf8.decode(data)
        return self._push_byte(token_id, data)

    def flush(self) -> str:
        """Return the remaining text at the end, without an incomplete last character."""
        if self._is_byte_level or self._read_offset == len(self._window):
            return ""
        return self._read_window(self._decode(self._window))

    def _push_byte(self, token_id: int, data: bytes) -> str:
        """Add a byte token of a tokenizer that also has other tokens."""
        if not self._window and data.isascii():
            return self._push_token(token_id)  # a leading space may be dropped
        piece = self.flush() + self._utf8.decode(data)
        # The byte is the context of the next token that is not a byte.
        self._window, self._read_offset = [token_id], 1
        self._num_read = len(self._token_text(token_id))
        return piece

    def _push_token(self, token_id: int) -> str:
        incomplete = self._utf8.decode(b"", final=True)
        window = self._window
        window.append(token_id)
        text = self._decode(window)
        num_waiting = len(window) - self._read_offset
        is_open = len(text) <= self._num_read or text.endswith(_REPLACEMENT)
        if is_open and num_waiting < _MAX_WAITING_TOKENS:
            return incomplete
        if len(text) <= self._num_read:
            # These tokens have no text. They are dropped, so that the window stays short.
            del window[self._read_offset :]
            return incomplete
        return incomplete + self._read_window(text)

    def _read_window(self, text: str) -> str:
        """Return the new part of the window's text. The tokens of this part become the context of
        the next token.
        """
        window = self._window
        piece = text[self._num_read :]
        del window[: self._read_offset]
        self._read_offset = len(window)
        is_single = self._read_offset == 1  # the common case; the text of one id is cached
        self._num_read = len(self._token_text(window[0]) if is_single else self._decode(window))
        return piece
