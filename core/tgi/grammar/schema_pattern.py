"""Translates the regular expressions of JSON schemas to the dialect of llguidance.

JSON schema uses ECMA 262 and llguidance uses the Rust crate `regex`. Many validators use other
dialects, for example Python's. Where the dialects differ, the translated expression matches only
texts that all of them match.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from tgi.grammar.constraint import GrammarError
from tgi.grammar.regex import check_regex_size

__all__ = ["translated_pattern"]

# The classes of an escape. The first text is used where characters are allowed, and the second
# text where characters are excluded.
_CLASSES: Final = {
    "d": ("0-9", r"\d"),
    "D": (r"\D", "[^0-9]"),
    "w": ("0-9A-Za-z_", r"\w"),
    "W": (r"\W", "[^0-9A-Za-z_]"),
    "s": (r"\t\n\x0B\f\r ", r"\s\x1C-\x1F\x{85}\x{FEFF}"),
    "S": (r"[^\s\x1C-\x1F\x{85}\x{FEFF}]", r"[^\t\n\x0B\f\r ]"),
}
_ANY_CHARACTER: Final = r"[^\n\r\x{2028}\x{2029}]"
_PART: Final = re.compile(
    r"\\u\{[0-9A-Fa-f]{1,6}\}|\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}|\\[pP]\{[^}]*\}|\\.|.", re.DOTALL
)
_GROUP: Final = re.compile(r"\(\?<?.", re.DOTALL)
_GROUPS: Final = frozenset({"(?:", "(?P"})
_ESCAPES: Final = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "0": "\0", "b": "\b"}


class _Item(NamedTuple):
    """An item of a character class: a character, or the text of a class."""

    character: str
    text: str


def translated_pattern(pattern: str) -> str:
    """The regular expression `pattern` in the dialect of llguidance. Raises `GrammarError`."""
    check_regex_size(pattern, "a `pattern`")
    texts: list[str] = []
    place = 0
    while place < len(pattern):
        group = _GROUP.match(pattern, place)
        if group is not None and group[0] not in _GROUPS:
            _check_group(group[0], pattern)
        part = _part_at(pattern, place)
        place += len(part)
        if part == "[":
            text, place = _class(pattern, place)
            texts.append(text)
        elif part.startswith("\\") and part[1:] in _CLASSES:
            texts.append(f"[{_CLASSES[part[1:]][0]}]")
        else:
            texts.append(_ANY_CHARACTER if part == "." else part)
    return "".join(texts)


def _part_at(pattern: str, place: int) -> str:
    found = _PART.match(pattern, place)
    if found is None:
        raise _unsupported(pattern, "an unfinished part")
    return found[0]


def _check_group(group: str, pattern: str) -> None:
    if group in {"(?=", "(?!", "(?<=", "(?<!"}:
        raise _unsupported(pattern, "a lookaround")
    if not group.startswith("(?<"):
        raise _unsupported(pattern, f"the group {group!r}")


def _class(pattern: str, place: int) -> tuple[str, int]:
    """A character class after its opening bracket, and the place after its closing bracket."""
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
            return f"[{'^' if is_negated else ''}{text}]", place
        items.append(None if part == "-" else _item(part, is_negated, pattern))
    raise _unsupported(pattern, "a character class without its end")


def _item(part: str, is_negated: bool, pattern: str) -> _Item:
    if not part.startswith("\\"):
        return _Item(part, "")
    name = part[1:]
    if name in _CLASSES:
        return _Item("", _CLASSES[name][is_negated])
    if name[0] in "pP" and len(name) > 1:
        return _Item("", part)
    return _Item(_character(name, pattern), "")


def _character(name: str, pattern: str) -> str:
    """The character of an escape in a character class."""
    if name[0] in "ux" and len(name) > 1:
        return chr(int(name[1:].strip("{}"), 16))
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
    return GrammarError(f"the pattern {shown!r} contains {feature}, which is not supported")
