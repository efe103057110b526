"""Incremental conversion of token ids to text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from tgi.text.tokenizer import Tokenizer

__all__ = ["Detokenizer"]

_NUM_CONTEXT_TOKENS = 5
_MAX_CHARACTER_TOKENS = 4  # a character has at most 4 bytes, and each can be a token
_REPLACEMENT = "\ufffd"  # the decoded text of an incomplete character


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
        # Invariant: the first `num_read` characters of the window's text have been returned. They
        # are the text of its first `read_offset` ids.
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
