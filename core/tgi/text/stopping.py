"""Finds stop strings as soon as they are complete, independent of token boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

__all__ = ["StopMatch", "StoppingCriteria"]


@final
@dataclass(frozen=True)
class StopMatch:
    """A complete stop string. `end` is the number of characters of the last piece up to the end of
    the stop string.
    """

    end: int
    stop: str


@final
class _Matcher:
    """Finds one stop string with the algorithm of Knuth, Morris and Pratt (1977). `state` is the
    length of the longest prefix of the stop string that is a suffix of the text.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.state = 0
        # Fallback states. They are computed only when their state first occurs, so that a long
        # pattern needs no work in advance.
        self._fallback = [0]

    def push(self, piece: str) -> int | None:
        """Return the position in `piece` at which the stop string ends, or None if it is not
        complete.
        """
        if not self.pattern:
            return len(piece)
        for i, character in enumerate(piece):
            while self.state and self.pattern[self.state] != character:
                self.state = self._fallback[self.state - 1]
            if self.pattern[self.state] == character:
                self.state += 1
                if self.state == len(self.pattern):
                    return i + 1
                if self.state > len(self._fallback):
                    self._extend()
        return None

    def _extend(self) -> None:
        """Compute the fallback of the next state."""
        character, length = self.pattern[len(self._fallback)], self._fallback[-1]
        while length and character != self.pattern[length]:
            length = self._fallback[length - 1]
        self._fallback.append(length + (character == self.pattern[length]))


@final
class StoppingCriteria:
    """The stop strings of one sequence. The average cost per character does not depend on the
    length of the text.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._matchers = [_Matcher(pattern) for pattern in stop]

    def push(self, piece: str) -> StopMatch | None:
        """Add the next piece of text. Returns the stop string that is complete first, or None. If
        several stop strings end at the same position, the longest one is returned.

        No text may be pushed after a match. As in TGI, an empty stop string matches immediately.
        """
        matches = [
            (end, matcher) for matcher in self._matchers if (end := matcher.push(piece)) is not None
        ]
        if not matches:
            return None
        end, matcher = min(matches, key=lambda match: (match[0], -len(match[1].pattern)))
        return StopMatch(end, matcher.pattern)

    def matches_special(self, text: str) -> bool:
        """Whether the text of a special token contains a stop string. This method does not add the
        text.
        """
        return any(matcher.pattern and matcher.pattern in text for matcher in self._matchers)

    @property
    def num_held(self) -> int:
        """Number of characters at the end of the text that may be the start of a stop string."""
        return max((matcher.state for matcher in self._matchers), default=0)
