"""Converts text to token ids and token ids to text with the model's tokenizer. The ids of a
sequence can be converted together or one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, islice, takewhile
from pathlib import Path
from typing import Any, final

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from tgi.architectures.file_reader import read_limited, shown
from tgi.errors import ModelError, TgiError, ValidationError
from tgi.text.model_files import read_json_object, token_content

__all__ = ["Detokenizer", "Encoding", "TokenSpan", "Tokenizer", "TokenizerPool"]

_NUM_CONTEXT_TOKENS = 5
_MAX_CHARACTER_TOKENS = 4  # a character has at most 4 bytes, and each can be a token
_REPLACEMENT = "\ufffd"  # the decoded text of an incomplete character

_MAX_TOKENIZER_BYTES = 256 << 20  # the largest published tokenizer.json has 40 MB
_MAX_REASON = 200  # maximum number of characters of an error message of the tokenizers library
_MIN_TEXT_LENGTH = 1 << 16  # characters
_NUM_MARGIN_TOKENS = 64  # tokens near the point where the text is truncated may differ
_NUM_BLOCK_TOKENS = 1024  # number of tokens that are formatted in one call
_SPECIAL_TOKEN_FIELDS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


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
    special_tokens: dict[str, str]  # field of the config (`bos_token`, …) → text
    max_token_length: int  # in characters
    # The texts of single ids, at most one entry per id.
    _texts: dict[int, str] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, model_path: Path) -> Tokenizer:
        """Read the tokenizer of the model. Raises `ModelError` with the name of the file."""
        backend = _load_backend(model_path)
        # The files may enable truncation and padding for batches, which would change the ids.
        backend.no_truncation()
        backend.no_padding()
        special_tokens = _special_tokens(model_path)
        special_ids = {
            number for number, token in backend.get_added_tokens_decoder().items() if token.special
        }
        named_ids = (backend.token_to_id(text) for text in special_tokens.values())
        special_ids.update(number for number in named_ids if number is not None)
        eos_token_ids = _eos_token_ids(model_path, backend, special_tokens)
        max_token_length = max(map(len, backend.get_vocab()), default=1)
        return cls(backend, frozenset(special_ids), eos_token_ids, special_tokens, max_token_length)

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
        encoding = _encode(self.backend.encode_batch_fast, text, add_special_tokens)
        ids: list[int] = encoding.ids
        if truncate is not None and len(ids) > truncate:
            ids = _truncated(ids, encoding.special_tokens_mask, truncate)
        return Encoding(ids)

    def max_text_length(self, num_tokens: int) -> int:
        """A length in characters. Every text that is longer has more than `num_tokens` tokens.

        The length has a minimum (`_MIN_TEXT_LENGTH`), because a normalizer may remove characters,
        and because it is cheap to tokenize a short text.
        """
        return max(num_tokens * self.max_token_length, _MIN_TEXT_LENGTH)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of `ids`. Ids that are unknown to the tokenizer have no text."""
        return self.backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def token_text(self, token_id: int) -> str:
        """The text of one id, decoded without context."""
        text = self._texts.get(token_id)
        if text is None:
            text = self._texts[token_id] = self.backend.decode(
                [token_id], skip_special_tokens=False
            )
        return text

    def tokenize(self, text: str, add_special_tokens: bool = True) -> Iterator[TokenSpan]:
        """The tokens of `text` with their positions."""
        encoding = _encode(self.backend.encode_batch, text, add_special_tokens)
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


@final
class TokenizerPool:
    """Runs the tokenizer in threads, so that a long text does not block the event loop."""

    def __init__(self, tokenizer: Tokenizer, workers: int) -> None:
        self.tokenizer = tokenizer
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="tokenizer")

    async def encode(
        self, text: str, add_special_tokens: bool = True, truncate: int | None = None
    ) -> Encoding:
        """Run `Tokenizer.encode` in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._executor, self.tokenizer.encode, text, add_special_tokens, truncate
        )

    async def format_tokens(
        self,
        text: str,
        formatter: Callable[[Sequence[TokenSpan]], bytes],
        add_special_tokens: bool = True,
    ) -> list[bytes]:
        """Run `Tokenizer.tokenize` in a thread, and `formatter` on each block of tokens. Returns
        the formatted blocks with commas between them.
        """

        def run() -> list[bytes]:
            spans = self.tokenizer.tokenize(text, add_special_tokens)
            blocks: list[bytes] = []
            while block := list(islice(spans, _NUM_BLOCK_TOKENS)):
                blocks += [b",", formatter(block)] if blocks else [formatter(block)]
            return blocks

        return await asyncio.get_running_loop().run_in_executor(self._executor, run)

    def close(self) -> None:
        """Stop the threads."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _truncated(ids: list[int], special_mask: list[int], size: int) -> list[int]:
    num_before = sum(1 for _ in takewhile(bool, special_mask))
    num_after = (
        sum(1 for _ in takewhile(bool, reversed(special_mask))) if num_before < len(ids) else 0
    )
    before, after = ids[:num_before], ids[len(ids) - num_after :]
    num_kept = max(0, size - num_before - num_after)
    rest = ids[num_before : len(ids) - num_after]
    return [*before, *(rest[-num_kept:] if num_kept else ()), *after][:size]


@contextmanager
def _library_errors(to_error: Callable[[str], TgiError]) -> Iterator[None]:
    """Turn an exception of the tokenizers library into the result of `to_error`, which is called
    with the reason.
    """
    try:
        yield
    except (TgiError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    # The native library raises plain `Exception` objects. If its code panics, it raises an
    # exception that is derived only from `BaseException`.
    except BaseException as error:
        raise to_error(" ".join(str(error).split())[:_MAX_REASON]) from error


def _cannot_encode(reason: str) -> TgiError:
    return ValidationError(f"the tokenizer cannot encode the text: {reason}")


def _cannot_read(path: Path, reason: str) -> TgiError:
    return ModelError(
        f"{path}: the tokenizer cannot be read: {reason}.", "Download the file again."
    )


def _load_backend(model_path: Path) -> tokenizers.Tokenizer:
    whole, vocab, merges = (
        model_path / name for name in ("tokenizer.json", "vocab.json", "merges.txt")
    )
    with _library_errors(partial(_cannot_read, whole if whole.exists() else vocab)):
        if whole.exists() or whole.is_symlink():
            return tokenizers.Tokenizer.from_buffer(read_limited(whole, _MAX_TOKENIZER_BYTES))
        if vocab.exists() and merges.exists():
            for path in (vocab, merges):
                read_limited(path, _MAX_TOKENIZER_BYTES)
            backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            backend.decoder = decoders.ByteLevel()
            return backend
    raise ModelError(
        f"{model_path}: the folder contains neither tokenizer.json nor vocab.json with merges.txt.",
        "Save the tokenizer as tokenizer.json (transformers:"
        " AutoTokenizer.from_pretrained(…).save_pretrained(…)).",
    )


def _special_tokens(model_path: Path) -> dict[str, str]:
    fields: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        fields.update(read_json_object(model_path / name))
    contents = {name: token_content(fields.get(name)) for name in _SPECIAL_TOKEN_FIELDS}
    return {name: content for name, content in contents.items() if content is not None}


def _eos_token_ids(
    model_path: Path, backend: tokenizers.Tokenizer, special_tokens: dict[str, str]
) -> tuple[int, ...]:
    """The end-of-sequence ids. As in TGI, generation_config.json takes precedence over config.json,
    and config.json over the tokenizer.
    """
    for name in ("generation_config.json", "config.json"):
        value = read_json_object(model_path / name).get("eos_token_id")
        numbers = value if isinstance(value, list) else [value]
        if not all(number is None or type(number) is int for number in numbers):
            raise ModelError(
                f"{model_path / name}: `eos_token_id` must be a token id or a list of token ids."
                f" Given: {shown(repr(value))}.",
                "Correct the file.",
            )
        # A negative number means that there is no such token.
        ids = tuple(number for number in numbers if number is not None and number >= 0)
        if ids:
            return ids
    number = backend.token_to_id(special_tokens.get("eos_token", ""))
    return () if number is None else (number,)


@final
class Detokenizer:
    """Converts the tokens of one sequence to pieces of text.

    The text of a token depends on the tokens before it: a leading space may be dropped, and the
    bytes of a character may be spread over several tokens. The detokenizer therefore decodes a
    short window of tokens. The piece of a token is the text that the token adds to the window.

    The piece is empty while a character is incomplete. The joined pieces are equal to the decoded
    text. Special tokens must not be pushed.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int]) -> None:
        self._decode = tokenizer.decode
        self._token_text = tokenizer.token_text
        # Invariant: the first `_num_read` characters of the window's text belong to the prompt or
        # have been returned. These characters are the text of the window's first `_read_offset`
        # ids.
        self._window, text = self._context(prompt_token_ids)
        self._read_offset = len(self._window)
        self._num_read = len(text)

    def push(self, token_id: int) -> str:
        """Add a token and return the text that it completes. The text may be empty."""
        window = self._window
        window.append(token_id)
        text = self._decode(window)
        if len(text) <= self._num_read or text.endswith(_REPLACEMENT):
            return ""
        piece = text[self._num_read :]
        del window[: self._read_offset]
        self._read_offset = len(window)
        is_single = self._read_offset == 1  # the common case; the text of one id is cached
        self._num_read = len(self._token_text(token_id) if is_single else self._decode(window))
        return piece

    def flush(self) -> str:
        """Return the remaining text at the end, without an incomplete last character."""
        text = self._decode(self._window).rstrip(_REPLACEMENT)
        piece = text[self._num_read :]
        self._num_read += len(piece)
        return piece

    def _context(self, token_ids: Sequence[int]) -> tuple[list[int], str]:
        """The last tokens of the prompt and their text. The text begins at a complete character,
        because the rest of a split character would change the text after it.
        """
        contexts = (
            list(token_ids[-_NUM_CONTEXT_TOKENS - extra :])
            for extra in range(_MAX_CHARACTER_TOKENS)
        )
        decoded = [(context, self._decode(context)) for context in contexts]
        return next(
            ((context, text) for context, text in decoded if _REPLACEMENT not in text), decoded[0]
        )


def _encode(
    encode_batch: Callable[..., list[tokenizers.Encoding]], text: str, add_special_tokens: bool
) -> tokenizers.Encoding:
    """Encode one text with a batch function of the library. A batch function releases the GIL;
    `tokenizers.Tokenizer.encode` does not.

    Raises `ValidationError` if the library cannot encode the text, for example because the text
    contains a character for which the tokenizer has no token.
    """
    with _library_errors(_cannot_encode):
        [encoding] = encode_batch([text], add_special_tokens=add_special_tokens)
    return encoding
