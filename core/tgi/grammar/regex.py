"""Regular expressions as Lark grammars."""

from __future__ import annotations

import re
from typing import Final

from tgi.grammar.constraint import GrammarError
from tgi.grammar.limits import MAX_REGEX_BYTES

__all__ = ["check_regex_size", "regex_literal"]

_START: Final = re.compile(r"\A(?:\^|\\A)")
_END: Final = re.compile(r"(?<!\\)((?:\\\\)*)(?:\$|\\[zZ])\Z")
_PART: Final = re.compile(r"\\.|[^\\]", re.DOTALL)
_WRITTEN: Final = {"/": r"\/", "\n": r"\n", "\r": r"\r", "\\\n": r"\n", "\\\r": r"\r"}


def regex_literal(pattern: str) -> str:
    """The Lark literal of a regular expression that matches a whole text. The anchors `^` and `$`
    at its ends have no effect and are removed. Raises `GrammarError`.
    """
    check_regex_size(pattern, "the regular expression")
    pattern = _END.sub(r"\1", _START.sub("", pattern))
    if not pattern:
        raise GrammarError("the regular expression must match a text that is not empty")
    text = "".join(_WRITTEN.get(part, part) for part in _PART.findall(pattern))
    return f"/{text}/"


def check_regex_size(pattern: str, name: str) -> None:
    """Raises `GrammarError` if a regular expression is too large or not valid Unicode."""
    try:
        size = len(pattern.encode())
    except UnicodeEncodeError:
        raise GrammarError(f"{name} contains an unpaired surrogate") from None
    if size > MAX_REGEX_BYTES:
        raise GrammarError(
            f"{name} has {size} bytes, but the limit is {MAX_REGEX_BYTES}; use a shorter one"
        )
