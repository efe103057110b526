"""Token ids to text, piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from tgi.text.tokenizer import Tokenizer

__all__ = ["Detokenizer"]

_NUM_CONTEXT_TOKENS = 5
_MAX_CHARACTER_TOKENS = 4  # bytes of a character, each a token of its own
_REPLACEMENT = "\ufffd"  # how an incomplete character decodes


@final
class Detokenizer:
    """Incremental decoding: a piece is what a token adds to the text of a short window before it.

    Decoders depend on context (a leading space, bytes of one character spread over tokens), so no token is decoded alone. While
    a character is incomplete the piece is empty; the joined pieces equal the decoded text. Special tokens are not fed.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        # Invariant: the window's text up to `read_offset` was handed out; all after it was not.
        self._window, self._read_text = self._context(prompt_token_ids)
        self._read_offset = len(self._window)

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes, perhaps none."""
        self._window.append(token_id)
        text = self._decode(self._window)
        if len(text) <= len(self._read_text) or text.endswith(_REPLACEMENT):
            return ""
        piece = text[len(self._read_text) :]
        self._window = self._window[self._read_offset :]
        self._read_offset = len(self._window)
        is_single = self._read_offset == 1  # as a rule
        self._read_text = self._tokenizer.token_text(token_id) if is_single else self._decode(self._window)
        return piece

    def flush(self) -> str:
        """What is left at the end, without a last incomplete character."""
        text = self._decode(self._window).rstrip(_REPLACEMENT)
        piece = text[len(self._read_text) :]
        self._read_text += piece
        return piece

    def _context(self, token_ids: Sequence[int]) -> tuple[list[int], str]:
        """The last tokens of the prompt and their text, begun between two characters: a torn one would spoil what follows it."""
        contexts = (list(token_ids[-_NUM_CONTEXT_TOKENS - extra :]) for extra in range(_MAX_CHARACTER_TOKENS))
        decoded = [(context, self._decode(context)) for context in contexts]
        return next(((context, text) for context, text in decoded if _REPLACEMENT not in text), decoded[0])

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids)
