"""Converts error messages of llguidance to one sentence for the client."""

from __future__ import annotations

import re
from typing import Final

from tgi.grammar.limits import MAX_LEXER_STATES

__all__ = ["DEAD_END", "is_out_of_states", "is_rejected_token", "one_sentence"]

DEAD_END: Final = "the grammar allows no token of this model at this position"

_MAX_LENGTH: Final = 300  # characters

# The lines of the grammar around an error, and the marks below them.
_SOURCE_LINES: Final = re.compile(
    r"\n\s*\d+ \|[^\n]*|\n\s*\^+\s*(?=\n|$)|^at \d+\(\d+\): (?=.*JSON)"
)


def is_out_of_states(error: str) -> bool:
    """Whether a lexer reached its maximum number of states."""
    return "too many states" in error


def is_rejected_token(error: str) -> bool:
    """Whether a token does not continue the text of the grammar."""
    return "doesn't satisfy the grammar" in error


def one_sentence(error: str) -> str:
    """The message of llguidance without its dump of the parser, on one line."""
    text = error.split("\n<", 1)[0].strip()
    if is_out_of_states(text):
        return (
            f"the grammar needs more than {MAX_LEXER_STATES} lexer states;"
            " use shorter repetitions and lengths"
        )
    if text.startswith("NoExtension"):
        return DEAD_END
    if "coerce_one_of" in text:
        return (
            "the keyword `oneOf` is only supported if its alternatives exclude each other;"
            ' `"x-guidance": {"coerce_one_of": true}` treats it as `anyOf`'
        )
    text = text.replace("failed to compile JSON schema: ", "")
    text = _SOURCE_LINES.sub("", text)
    text = re.sub(r"\s+", " ", text).strip()
    if not text:
        text = "the grammar cannot be compiled"
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}…"
