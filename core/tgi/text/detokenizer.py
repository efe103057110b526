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

    Decoders depend on context (a leading space, bytes of one character spread over tokens), so no
    token is decoded alone. While a character is incomplete the piece is empty; the joined pieces
    equal the decoded text. Special tokens are not fed.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int]) -> None:
        self._decode = tokenizer.decode
        self._token_text = tokenizer.token_text
        # Invariant: the first `num_read` characters of the window's text were handed out: those of
        # its first `read_offset` ids.
        self._window, text = self._context(prompt_token_ids)
        self._read_offset = len(self._window)
        self._num_read = len(text)

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes, perhaps none."""
        window = self._window
        window.append(token_id)
        text = self._decode(window)
        if len(text) <= self._num_read or text.endswith(_REPLACEMENT):
            return ""
        piece = text[self._num_read :]
        del window[: self._read_offset]
        self._read_offset = len(window)
        is_single = self._read_offset == 1  # as a rule
        self._num_read = len(self._token_text(token_id) if is_single else self._decode(window))
        return piece

    def flush(self) -> str:
        """What is left at the end, without a last incomplete character."""
        text = self._decode(self._window).rstrip(_REPLACEMENT)
        piece = text[self._num_read :]
        self._num_read += len(piece)
        return piece

    def _context(self, token_ids: Sequence[int]) -> tuple[list[int], str]:
        """The last tokens of the prompt and their text, begun between two characters: a torn one
        would spoil what follows it.
        """
        contexts = (
            list(token_ids[-_NUM_CONTEXT_TOKENS - extra :])
            for extra in range(_MAX_CHARACTER_TOKENS)
        )
        decoded = [(context, self._decode(context)) for context in contexts]
        return next(
            ((context, text) for context, text in decoded if _REPLACEMENT not in text), decoded[0]
        )
