"""Stop strings: found as soon as they are complete, wherever token borders lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

__all__ = ["StopMatch", "StoppingCriteria"]


@final
@dataclass(frozen=True)
class StopMatch:
    """A complete stop string: it ends `end` characters into the piece that completed it."""

    end: int
    stop: str


@final
class _Matcher:
    """One stop string. `state` = length of its longest beginning that the text ends with (Knuth,
    Morris and Pratt 1977).
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.state = 0
        self._fallback = [0] * len(pattern)
        length = 0
        for i in range(1, len(pattern)):
            while length and pattern[i] != pattern[length]:
                length = self._fallback[length - 1]
            length += pattern[i] == pattern[length]
            self._fallback[i] = length

    def push(self, piece: str) -> int | None:
        """Where in `piece` the pattern ends, if it does."""
        if not self.pattern:
            return len(piece)
        for i, character in enumerate(piece):
            while self.state and self.pattern[self.state] != character:
                self.state = self._fallback[self.state - 1]
            if self.pattern[self.state] == character:
                self.state += 1
                if self.state == len(self.pattern):
                    return i + 1
        return None


@final
class StoppingCriteria:
    """The stop strings of one sequence. The cost per character does not depend on what came
    before.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._matchers = [_Matcher(pattern) for pattern in stop]

    def push(self, piece: str) -> StopMatch | None:
        """Look at the next piece of text; the stop string that is complete first, the longest of
        those that end together.

        After a match nothing more may be pushed. An empty stop string matches at once, as in TGI.
        """
        matches = [
            (end, matcher) for matcher in self._matchers if (end := matcher.push(piece)) is not None
        ]
        if not matches:
            return None
        end, matcher = min(matches, key=lambda match: (match[0], -len(match[1].pattern)))
        return StopMatch(end, matcher.pattern)

    def matches_special(self, text: str) -> bool:
        """Whether the text of a special token holds a stop string; it is not part of the text that
        `push` sees.
        """
        return any(matcher.pattern and matcher.pattern in text for matcher in self._matchers)

    @property
    def num_held(self) -> int:
        """Characters at the end of the text that a stop string may yet claim."""
        return max((matcher.state for matcher in self._matchers), default=0)
