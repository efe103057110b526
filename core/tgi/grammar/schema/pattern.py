r"""Translates the regular expressions of clients to the dialect of llguidance.

Clients write the dialects of ECMA 262 and Python, and llguidance uses the Rust crate `regex`. Where
the dialects differ, the translated expression matches only texts that all of them match. For
example, `\d` matches only ASCII digits.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Final, NamedTuple

from tgi.grammar.constraint import GrammarError
from tgi.grammar.limits import MAX_REGEX_BYTES

__all__ = ["translated_pattern"]

_DIGIT: Final = r"\p{Nd}"
_WORD: Final = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}"
_SPACE: Final = r"\p{White_Space}\x1C-\x1F\x{FEFF}"
# The classes of an escape. The first text is used where characters are allowed, and the second
# text where characters are excluded, so that the dialects with and without Unicode agree.
_CLASSES: Final = {
    "d": ("0-9", _DIGIT),
    "D": (f"[^{_DIGIT}]", "[^0-9]"),
    "w": ("0-9A-Za-z_", _WORD),
    "W": (f"[^{_WORD}]", "[^0-9A-Za-z_]"),
    "s": (r"\t\n\x0B\f\r ", _SPACE),
    "S": (f"[^{_SPACE}]", r"[^\t\n\x0B\f\r ]"),
}
# Our JSON texts cannot contain these characters, because only the short escapes are allowed.
_WITHOUT_ESCAPE: Final = re.compile("[\\x00-\\x07\\x0b\\x0e-\\x1f\\x7f]")
_WITH_ESCAPE: Final = r"[^\x00-\x07\x0B\x0E-\x1F\x7F]"
_ANY_CHARACTER: Final = r"[^\n\r\x{2028}\x{2029}]"
_PART: Final = re.compile(
    r"\\u\{[0-9A-Fa-f]{1,6}\}|\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}|\\[pP]\{[^}]*\}|\\.|.", re.DOTALL
)
_GROUP: Final = re.compile(r"\(\?<?.", re.DOTALL)
_ESCAPES: Final = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "0": "\0", "b": "\b"}


class _Item(NamedTuple):
    """An item of a character class: a character, or the text of a class."""

    character: str
    text: str


def translated_pattern(pattern: str, *, is_json: bool) -> str:
    """The regular expression `pattern` in the dialect of llguidance. Raises `GrammarError`.

    If `is_json` is set, the text is the value of a JSON string in a schema.
    """
    check_regex_size(pattern)
    texts: list[str] = []
    place = 0
    while place < len(pattern):
        _check_group(pattern, place, is_json=is_json)
        part = _part_at(pattern, place)
        place += len(part)
        if part == "\\":
            raise _unsupported(pattern, "a backslash at its end")
        if part == "[":
            text, place = _class(pattern, place)
            texts.append(_bracketed(text, is_json=is_json))
        elif part.startswith("\\") and part[1:] in _CLASSES:
            texts.append(_bracketed(_CLASSES[part[1:]][0], is_json=is_json))
        else:
            if is_json:
                _check_character(part, pattern)
            texts.append(_ANY_CHARACTER if part == "." and is_json else part)
    return "".join(texts)


def check_regex_size(pattern: str) -> None:
    """Raises `GrammarError` if a regular expression is too large or not valid Unicode."""
    try:
        size = len(pattern.encode())
    except UnicodeEncodeError:
        raise GrammarError("a regular expression contains an unpaired surrogate") from None
    if size > MAX_REGEX_BYTES:
        raise GrammarError(
            f"a regular expression has {size} bytes, but the limit is {MAX_REGEX_BYTES}; use a"
            " shorter one"
        )


def _bracketed(text: str, *, is_json: bool) -> str:
    """A character class. In JSON, it has only characters that a JSON text can contain."""
    return f"[[{text}]&&{_WITH_ESCAPE}]" if is_json else f"[{text}]"


def _check_character(part: str, pattern: str) -> None:
    """Rejects control characters, because llguidance omits them if they are not in a class."""
    name = part[1:]
    is_escape = part in {r"\0", r"\v"} or (part[:1] == "\\" and name[:1] in {"u", "x"})
    character = _character(name, pattern) if is_escape else part
    if _WITHOUT_ESCAPE.fullmatch(character):
        raise _unsupported(pattern, "a control character")


def _part_at(pattern: str, place: int) -> str:
    found = _PART.match(pattern, place)
    if found is None:
        raise _unsupported(pattern, "an unfinished part")
    return found[0]


def _check_group(pattern: str, place: int, *, is_json: bool) -> None:
    """Rejects groups that have no effect or another effect in llguidance."""
    found = _GROUP.match(pattern, place)
    group = found[0] if found is not None else "(?:"
    if group in {"(?=", "(?!", "(?<=", "(?<!"}:
        raise _unsupported(pattern, "a lookaround")
    is_flag = not is_json and group in {"(?i", "(?s"}
    if not (is_flag or group.startswith(("(?:", "(?P", "(?<"))):
        raise _unsupported(pattern, f"the group {group!r}")


def _class(pattern: str, place: int) -> tuple[str, int]:
    """The content of a character class after its opening bracket, and the place after the class."""
    is_negated = pattern.startswith("^", place)
    place += is_negated
    items: list[_Item | None] = []  # None is a hyphen
    while place < len(pattern):
        part = _part_at(pattern, place)
        place += len(part)
        if part == "]":
            if not items:
                raise _unsupported(pattern, "an empty character class")
            text = "".join(_ranges(items, pattern))
            return f"{'^' if is_negated else ''}{text}", place
        items.append(None if part == "-" else _item(part, is_negated, pattern))
    raise _unsupported(pattern, "a character class without its end")


def _item(part: str, is_negated: bool, pattern: str) -> _Item:
    if not part.startswith("\\"):
        return _Item(part, "")
    name = part[1:]
    if not name:
        raise _unsupported(pattern, "a backslash at its end")
    if name in _CLASSES:
        return _Item("", _CLASSES[name][is_negated])
    if name[0] in "pP" and len(name) > 1:
        return _Item("", part)
    return _Item(_character(name, pattern), "")


def _character(name: str, pattern: str) -> str:
    """The character of an escape."""
    if name[0] in "ux" and len(name) > 1:
        code = int(name[1:].strip("{}"), 16)
        if code > sys.maxunicode:
            raise _unsupported(pattern, f"the escape {name!r}")
        return chr(code)
    if name.isalnum() and name not in _ESCAPES:
        raise _unsupported(pattern, f"the escape {name!r}")
    return _ESCAPES.get(name, name)


def _ranges(items: list[_Item | None], pattern: str) -> Iterator[str]:
    place = 0
    while place < len(items):
        first = items[place]
        last = items[place + 2] if place + 2 < len(items) else None
        is_range = first is not None and last is not None and items[place + 1] is None
        if is_range and first is not None and last is not None:
            if not first.character or not last.character or first.character > last.character:
                raise _unsupported(pattern, "an invalid range of characters")
            yield f"{_code(first.character)}-{_code(last.character)}"
            place += 3
            continue
        yield _code("-") if first is None else first.text or _code(first.character)
        place += 1


def _code(character: str) -> str:
    return f"\\x{{{ord(character):X}}}"


def _unsupported(pattern: str, feature: str) -> GrammarError:
    shown = pattern if len(pattern) <= 80 else f"{pattern[:80]}…"
    return GrammarError(
        f"the regular expression {shown!r} contains {feature}, which is not supported"
    )
