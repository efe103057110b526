"""Reads text that arrives in pieces. The parsers of output formats are generators, which yield
whenever they need more text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias, TypeVar, final

from tgi.text.output.json_scanner import JsonScanner

__all__ = ["Parsing", "TextReader"]

ResultT = TypeVar("ResultT")

Parsing: TypeAlias = Generator[None, None, ResultT]
"""A parser that yields when it needs more text, and returns a result at its end."""

_SPACE = re.compile(r"\s*")
_COMPACT_LENGTH = 1 << 12  # read text is dropped when it is longer than this number of characters


@final
class TextReader:
    """The text so far, and the position up to which it was read.

    All generator methods yield until the text is sufficient or complete. Their result is therefore
    independent of the division of the text into pieces.
    """

    def __init__(self) -> None:
        self.is_complete = False  # whether no more text follows
        self._text = ""
        self._position = 0
        # The text before this position is no longer needed. If None, `_position` applies instead.
        self._mark: int | None = None

    def push(self, text: str) -> None:
        """Add text at the end."""
        needed = self._position if self._mark is None else self._mark
        if needed > _COMPACT_LENGTH:
            self._text = self._text[needed:]
            self._position -= needed
            self._mark = None if self._mark is None else 0
        self._text += text

    def mark(self) -> None:
        """Store the position for `rewind`."""
        self._mark = self._position

    def rewind(self) -> None:
        """Return to the position of the last `mark`."""
        assert self._mark is not None, "no position was marked"
        self._position = self._mark
        self._mark = None

    def release(self) -> None:
        """Discard the position of the last `mark`."""
        self._mark = None

    def peek(self) -> Parsing[str]:
        """The next character, or an empty text at the end."""
        while self._position == len(self._text) and not self.is_complete:
            yield
        return self._text[self._position : self._position + 1]

    def skip(self, num_characters: int) -> None:
        """Skip characters that `peek` or a search has found."""
        self._position += num_characters

    def space(self) -> Parsing[None]:
        """Skip whitespace."""
        while True:
            self._position = self._match_end(_SPACE)
            if self._position < len(self._text) or self.is_complete:
                return
            yield

    def literal(self, expected: str) -> Parsing[bool]:
        """Skip `expected`. Returns False, and skips nothing, if the text is different."""
        while True:
            found = self._text[self._position : self._position + len(expected)]
            if found == expected:
                self._position += len(expected)
                return True
            if self.is_complete or not expected.startswith(found):
                return False
            yield

    def until(self, markers: Sequence[str], emit: Callable[[str], None]) -> Parsing[str]:
        """Pass all text before the first marker to `emit`, as soon as it cannot be a part of a
        marker. Skips the marker and returns it. Returns an empty text if there is no marker.

        No marker may contain another one.
        """
        search = _search_of(tuple(markers))
        while True:
            found = search.pattern.search(self._text, self._position)
            if found is not None:
                self._emit(found.start(), emit)
                self._position = found.end()
                return found[0]
            num_held = 0 if self.is_complete else self._num_held(search)
            self._emit(len(self._text) - num_held, emit)
            if self.is_complete:
                return ""
            yield

    def rest(self, emit: Callable[[str], None]) -> Parsing[None]:
        """Pass all text to `emit`."""
        while True:
            self._emit(len(self._text), emit)
            if self.is_complete:
                return
            yield

    def pattern(self, pattern: re.Pattern[str]) -> Parsing[str]:
        """Skip and return the characters that match `pattern`, a repeated character class."""
        while True:
            start, end = self._position, self._match_end(pattern)
            if end < len(self._text) or self.is_complete:
                self._position = end
                return self._text[start:end]
            yield

    def string(self) -> Parsing[str | None]:
        """Skip a JSON string. Returns its value, or None if there is no valid string."""
        if (yield from self.peek()) != '"':
            return None
        text = yield from self.value()
        return None if text is None else str(json.loads(text))

    def value(self) -> Parsing[str | None]:
        """Skip a JSON value. Returns its text, or None if there is no valid value."""
        pieces: list[str] = []
        is_valid = yield from self.stream_value(pieces.append)
        return "".join(pieces) if is_valid else None

    def stream_value(self, emit: Callable[[str], None], opening: str = "") -> Parsing[bool]:
        """Skip a JSON value and pass its text to `emit` as it arrives. A piece never ends inside an
        escape sequence. Returns False at the first invalid character, which is not skipped, and at
        the end of an incomplete value. An incomplete escape sequence at the end is dropped.

        `opening` is the start of the value, if the start is not part of the text.
        """
        scanner = JsonScanner()
        scanner.push(opening)
        while True:
            # The characters of an incomplete escape sequence were scanned, but not emitted.
            scanned = scanner.push(self._text, self._position + scanner.num_open)
            self._emit(scanned - scanner.num_open, emit)
            if scanner.is_complete:
                return True
            if scanner.is_invalid:
                return False
            if self.is_complete:
                self._position = len(self._text)
                return False
            yield

    def _emit(self, end: int, emit: Callable[[str], None]) -> None:
        if end > self._position:
            emit(self._text[self._position : end])
            self._position = end

    def _match_end(self, pattern: re.Pattern[str]) -> int:
        found = pattern.match(self._text, self._position)
        return self._position if found is None else found.end()

    def _num_held(self, search: _Search) -> int:
        """The number of characters at the end of the text that may be the start of a marker."""
        text, end = self._text, len(self._text)
        for place in range(max(self._position, end - search.max_length), end):
            if text[place:] in search.starts:
                return end - place
        return 0


@final
@dataclass(frozen=True)
class _Search:
    """The search for several markers. `starts` contains all texts with which a marker begins,
    without the markers themselves.
    """

    pattern: re.Pattern[str]
    starts: frozenset[str]
    max_length: int  # maximum length of a text in `starts`


@cache
def _search_of(markers: tuple[str, ...]) -> _Search:
    starts = {marker[:length] for marker in markers for length in range(1, len(marker))}
    return _Search(
        re.compile("|".join(map(re.escape, markers))),
        frozenset(starts),
        max(map(len, starts), default=0),
    )
