"""Replaces variables in the texts of Compose files and splits texts into words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tgi.cli.migration.words import Atom, Expansion, Word
from tgi.config import UsageError

__all__ = ["interpolated", "mapping", "mappings", "scalar", "sequence", "split_words"]

_NAME = re.compile(r"[A-Za-z_]\w*")


def scalar(value: object) -> str:
    """Return a YAML value as the text that the launcher receives."""
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)


def mapping(value: object) -> dict[str, Any]:
    """Return a YAML mapping, or an empty mapping for another value."""
    return {str(key): each for key, each in value.items()} if isinstance(value, dict) else {}


def sequence(value: object) -> list[Any]:
    """Return a YAML list. A single value is a list of one member, and null is an empty list."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def mappings(value: object) -> list[dict[str, Any]]:
    """Return the mappings in a YAML list."""
    return [mapping(each) for each in sequence(value) if isinstance(each, dict)]


def interpolated(value: object) -> Word:
    """Return the word of a text in a Compose file: `$NAME` and `${…}` are variables of the shell,
    and `$$` is a dollar sign.
    """
    return Word(tuple(_atoms(scalar(value))))


def _atoms(text: str) -> Iterator[Atom]:
    at = 0
    while at < len(text):
        end = _end_of_variable(text, at) if text[at] == "$" else at
        if text.startswith("$$", at):
            yield "$"
            at += 2
        elif end > at:
            yield Expansion(text[at:end], True)
            at = end
        else:
            yield text[at]
            at += 1


def _end_of_variable(text: str, at: int) -> int:
    """Return the end of the variable at `text[at]`, or `at` if there is no variable."""
    if text.startswith("${", at):
        depth = 0
        for end in range(at + 1, len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                return end + 1
    match = _NAME.match(text, at + 1)
    return at if match is None else match.end()


def split_words(word: Word) -> list[Word]:
    """Split a word at its blanks as a shell does, and remove the quotes. Raises `UsageError` if a
    quote is not closed.
    """
    words: list[list[Atom]] = []
    current: list[Atom] | None = None
    quote = ""
    atoms = iter(word.atoms)
    for atom in atoms:
        if isinstance(atom, Expansion):
            current = [*(current or ()), Expansion(atom.source, bool(quote))]
        elif not quote and atom in " \t\r\n":
            words += [] if current is None else [current]
            current = None
        elif atom in "'\"" and quote in ("", atom):
            quote = "" if quote else atom
            current = current or []
        elif atom == "\\" and quote != "'":
            following = next(atoms, "")
            current = [*(current or ()), *([] if following == "\n" else [following])]
        else:
            current = [*(current or ()), atom]
    if quote:
        raise UsageError(
            f"error: the quote {quote} in `{word.text}` is not closed.", "Close the quote."
        )
    words += [] if current is None else [current]
    return [Word(tuple(each)) for each in words if each != [""]]
