"""Words of a shell command that keep their variables, their substitutions and their quotes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import final

__all__ = ["NOTHING", "Atom", "Expansion", "Word", "expand", "known_values", "variable"]

_IN_DOUBLE_QUOTES = re.compile(r'(["\\`$])')
_SIMPLE_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


@final
@dataclass(frozen=True)
class Expansion:
    """A part of a word that the shell expands, for example `$MODEL`, `${PORT:-80}` or `$(pwd)`.

    `source` is the text in the script. `quoted` is True inside double quotes.
    """

    source: str
    quoted: bool = False

    @property
    def name(self) -> str:
        """The name of the variable in `$NAME` and `${NAME}`, or an empty string."""
        match = _SIMPLE_VARIABLE.fullmatch(self.source)
        return "" if match is None else match[1] or match[2]

    @property
    def key(self) -> str:
        """A text that is equal for expansions of the same value, with any quotes and braces."""
        return f"${self.name}" if self.name else self.source

    def __str__(self) -> str:
        """Return the text in the script."""
        return self.source


Atom = str | Expansion
"""One character that stays as it is, or an expansion."""


@final
@dataclass(frozen=True)
class Word:
    """A word of a command as a sequence of characters and expansions."""

    atoms: tuple[Atom, ...] = ()

    @classmethod
    def of(cls, text: str) -> Word:
        """Return a word without expansions. Every character of `text` stays as it is."""
        return cls(tuple(text))

    @property
    def text(self) -> str:
        """The word as it is written in a script, without quotes."""
        return "".join(map(str, self.atoms))

    @property
    def literal(self) -> str | None:
        """The text of the word, or None if the shell expands a part of the word."""
        return None if self.expansions else self.text

    @property
    def expansions(self) -> tuple[Expansion, ...]:
        """The parts of the word that the shell expands."""
        return tuple(atom for atom in self.atoms if isinstance(atom, Expansion))

    @property
    def literals(self) -> str:
        """The characters of the word without its expansions."""
        return "".join(atom for atom in self.atoms if isinstance(atom, str))

    def __add__(self, other: Word) -> Word:
        """Join two words."""
        return Word(self.atoms + other.atoms)

    def __bool__(self) -> bool:
        """Return whether the word has any part."""
        return bool(self.atoms)

    def starts_with(self, text: str) -> bool:
        """Return whether the word begins with the characters of `text`."""
        return self.atoms[: len(text)] == tuple(text)

    def partition(self, separator: str) -> tuple[Word, bool, Word]:
        """Split the word at the first `separator` (one character) outside of expansions. Returns
        the part before, whether the separator was found, and the part after.
        """
        if separator not in self.atoms:
            return self, False, Word()
        at = self.atoms.index(separator)
        return Word(self.atoms[:at]), True, Word(self.atoms[at + 1 :])

    def split(self, separator: str) -> list[Word]:
        """Split the word at every `separator` (one character) outside of expansions."""
        parts: list[list[Atom]] = [[]]
        for atom in self.atoms:
            if atom == separator:
                parts.append([])
            else:
                parts[-1].append(atom)
        return [Word(tuple(part)) for part in parts]

    def without_prefix(self, prefix: Word) -> Word | None:
        """Return the rest of the word after `prefix`, or None if the word begins differently."""
        keys, others = _keys(self), _keys(prefix)
        if keys[: len(others)] != others:
            return None
        return Word(self.atoms[len(others) :])

    def stripped(self, characters: str) -> Word:
        """Remove these characters from both ends."""
        start, end = 0, len(self.atoms)
        while start < end and str(self.atoms[start]) in characters:
            start += 1
        while end > start and str(self.atoms[end - 1]) in characters:
            end -= 1
        return Word(self.atoms[start:end])

    def quoted(self) -> Word:
        """Return the word with every expansion in double quotes. A leading `~` stays unquoted."""
        return Word(
            tuple(
                Expansion(atom.source, True)
                if isinstance(atom, Expansion) and not atom.source.startswith("~")
                else atom
                for atom in self.atoms
            )
        )

    def shell(self) -> str:
        """Return the source of this word in a command."""
        if not self.expansions:
            return shlex.quote(self.text)
        if self._fits_in_one_pair_of_quotes():
            return f'"{"".join(map(_in_double_quotes, self.atoms))}"'
        return _segments(self.atoms)

    def shell_value(self) -> str:
        """Return the source of this word after `NAME=`. The shell does not split such values, so
        variables need no quotes.
        """
        if not self.expansions:
            return shlex.quote(self.text) if self.text else ""
        plain = Word(
            tuple(
                Expansion(atom.source) if isinstance(atom, Expansion) else atom
                for atom in self.atoms
            )
        )
        return _segments(plain.atoms)

    def _fits_in_one_pair_of_quotes(self) -> bool:
        return all(each.quoted for each in self.expansions) and "!" not in self.literals


NOTHING = Word()
"""The word without any part."""


def variable(name: str, quoted: bool = True) -> Word:
    """Return the word `$NAME`."""
    return Word((Expansion(f"${name}", quoted),))


def expand(word: Word, replacement: Callable[[Expansion], Word | None]) -> Word:
    """Replace every expansion for which `replacement` returns a word."""
    atoms: list[Atom] = []
    for atom in word.atoms:
        new = replacement(atom) if isinstance(atom, Expansion) else None
        atoms += (atom,) if new is None else new.atoms
    return Word(tuple(atoms))


def known_values(values: Mapping[str, Word]) -> Callable[[Expansion], Word | None]:
    """Return a replacement for `expand` that inserts the values of these variables."""
    return lambda expansion: values.get(expansion.name) if expansion.name else None


def _keys(word: Word) -> list[str]:
    return [atom if isinstance(atom, str) else atom.key for atom in word.atoms]


def _in_double_quotes(atom: Atom) -> str:
    return atom.source if isinstance(atom, Expansion) else _IN_DOUBLE_QUOTES.sub(r"\\\1", atom)


def _segments(atoms: Iterable[Atom]) -> str:
    """Return the source of a word whose parts have different quotes."""
    items = list(atoms)
    parts = []
    for kind, group in groupby(items, _kind):
        text = "".join(map(str, group))
        if kind == "literal":
            parts.append(text if re.fullmatch(r"[\w@%+=:,./-]+", text) else shlex.quote(text))
        else:
            parts.append(f'"{text}"' if kind == "quoted" else text)
    return "".join(_separated(parts))


def _separated(parts: list[str]) -> Iterable[str]:
    """Add braces to a variable if the next part would continue its name."""
    for part, following in zip(parts, [*parts[1:], ""], strict=True):
        is_bare = re.search(r"(?<!\\)\$[A-Za-z_]\w*$", part)
        if is_bare and re.match(r"\w", following):
            yield re.sub(r"\$([A-Za-z_]\w*)$", r"${\1}", part)
        else:
            yield part


def _kind(atom: Atom) -> str:
    if isinstance(atom, str):
        return "literal"
    return "quoted" if atom.quoted else "unquoted"
