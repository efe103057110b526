"""Converts error messages of llguidance to one sentence for the client."""

from __future__ import annotations

import re
from typing import Final

from tgi.grammar.limits import MAX_LEXER_STATES

__all__ = ["DEAD_END", "is_out_of_states", "is_rejected_token", "one_sentence"]

DEAD_END: Final = "the grammar allows no token of this model at this position"

_MAX_LENGTH: Final = 300  # characters

# The lines of the grammar around an error, the marks below them, and the position of a JSON schema,
# whose line and column the client did not write.
_SOURCE_LINES: Final = re.compile(
    r"\n\s*\d+ \|[^\n]*|\n\s*\^+\s*(?=\n|$)|^at \d+\(\d+\): (?=.*(?:JSON|[Ss]chema|Properties))"
)

# Parts of messages of llguidance about its limits, and our messages.
_SENTENCES: Final = {
    "grammar size (number of symbols) too big": (
        "the grammar has too many symbols; use fewer properties, alternatives or rules"
    ),
    "Current row has": "the grammar has too many alternatives at one position; use fewer of them",
    "Too many items": "the grammar has too many alternatives at one position; use fewer of them",
    "too many expressions": (
        "a regular expression or a `multipleOf` of the grammar is too complex; use a simpler one"
    ),
    "fuel": "the lexer of the grammar is too complex; use simpler regular expressions and numbers",
    "schema too large": "the schema is too large after `allOf` and `anyOf` are combined",
    "Unable to determine if regex is empty": (
        "the values of `pattern`, `format` and the lengths of one string are too complex together"
    ),
}


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
    for part, sentence in _SENTENCES.items():
        if part in text:
            return sentence
    if text.startswith("NoExtension"):
        return DEAD_END
    if "coerce_one_of" in text:
        return (
            "the keyword `oneOf` is only supported if its alternatives exclude each other;"
            ' `"x-guidance": {"coerce_one_of": true}` treats it as `anyOf`'
        )
    if "regex parse error" in text:
        reason = text.split("error:")[-1].split("\n")[0].strip()
        return f"a regular expression is invalid: {reason}"
    text = text.replace("failed to compile JSON schema: ", "")
    text = _SOURCE_LINES.sub("", text)
    text = re.sub(r"\s+", " ", text).strip()
    if not text:
        text = "the grammar cannot be compiled"
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}…"
