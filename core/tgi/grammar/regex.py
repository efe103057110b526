"""Regular expressions as Lark grammars."""

from __future__ import annotations

import re
from typing import Final

from tgi.grammar.constraint import GrammarError
from tgi.grammar.schema.pattern import check_regex_size, translated_pattern

__all__ = ["regex_literal"]

_START: Final = re.compile(r"\A(?:\^|\\A)")
_END: Final = re.compile(r"(?<!\\)((?:\\\\)*)(?:\$|\\[zZ])\Z")
_PART: Final = re.compile(r"\\.|[^\\]", re.DOTALL)
_WRITTEN: Final = {"/": r"\/", "\n": r"\n", "\r": r"\r", "\\\n": r"\n", "\\\r": r"\r"}


def regex_literal(pattern: str) -> str:
    """The Lark literal of a regular expression that matches a whole text. The anchors `^` and `$`
    at its ends have no effect and are removed. Raises `GrammarError`.
    """
    check_regex_size(pattern)
    pattern = _END.sub(r"\1", _START.sub("", pattern))
    if not pattern:
        raise GrammarError("the regular expression must match a text that is not empty")
    parts = _PART.findall(translated_pattern(pattern, is_json=False))
    text = "".join(_WRITTEN.get(part, part) for part in parts)
    return f"/{text}/"
