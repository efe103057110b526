"""The reasoning of one sequence: finds its tags in the output and enforces its maximum length."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import final

from tgi.grammar.token_table import Int32Array
from tgi.grammar.vocabulary import Vocabulary
from tgi.types import ReasoningLimits

__all__ = ["Phase", "Reasoning"]


@final
class Phase(enum.Enum):
    """The position of a sequence relative to its reasoning."""

    BEFORE = enum.auto()  # the output is empty or the beginning of the first tag
    INSIDE = enum.auto()
    AFTER = enum.auto()  # the final text is empty or whitespace
    TEXT = enum.auto()


@final
@dataclass(frozen=True)
class _Position:
    """The phase, and the number of bytes of the next tag with which the output ends."""

    phase: Phase
    state: int = 0
    num_tokens: int = 0  # inside the reasoning


@final
class Reasoning:
    """Follows the output of one sequence through its reasoning.

    The phases are `BEFORE`, `INSIDE`, `AFTER` and `TEXT`, in this order. A sequence without
    reasoning goes from `BEFORE` to `TEXT`. Raises `GrammarError` if the tokens of the model
    cannot express a tag.
    """

    def __init__(self, vocabulary: Vocabulary, limits: ReasoningLimits) -> None:
        self._vocabulary = vocabulary
        self._limits = limits
        self._start = vocabulary.tag(limits.start) if not limits.is_open else None
        self._end = vocabulary.tag(limits.end)
        self._position = _Position(Phase.INSIDE if limits.is_open else Phase.BEFORE)
        self._forced: tuple[int, ...] = ()
        self._force()

    def copy(self) -> Reasoning:
        """An independent object in the same state."""
        other = Reasoning(self._vocabulary, self._limits)
        other._position, other._forced = self._position, self._forced
        return other

    @property
    def phase(self) -> Phase:
        return self._position.phase

    @property
    def is_in_first_tag(self) -> bool:
        """Whether the output is a part of the first tag, and neither empty nor complete."""
        return self._position.phase is Phase.BEFORE and self._position.state > 0

    def start_ids(self) -> list[int]:
        """The tokens that continue the first tag."""
        return self._start.next_ids(self._position.state) if self._start is not None else []

    def mask(self, *, is_strict: bool) -> Int32Array:
        """The mask [mask_width] inside the reasoning. If `is_strict` is set, no token contains the
        end of the reasoning and a part of the final text.
        """
        if self._forced:
            return self._vocabulary.table.mask_of(self._forced[:1])
        if is_strict:
            return self._end.mask_before(self._position.state)
        return self._vocabulary.text_mask

    def accept(self, token_id: int) -> str:
        """Read a token before the final text. Returns the reason if the token is not allowed."""
        data = self._vocabulary.table.tokens[token_id]
        if self._position.phase is Phase.BEFORE:
            self._read_before(data)
        elif self._position.phase is Phase.INSIDE:
            if token_id in self._vocabulary.eos_token_ids:
                return "the reasoning ended without its closing tag"
            if self._forced and self._forced[0] != token_id:
                return "the reasoning continued after its maximum number of tokens"
            self._read_inside(data)
        elif self._position.phase is Phase.AFTER:
            self._read_after(data)
        return ""

    def _read_before(self, data: bytes) -> None:
        """Only a tag at the very beginning of the output starts the reasoning, after whitespace."""
        assert self._start is not None
        state = self._position.state
        text = self._start.data[:state] + data
        if state == 0:
            text = text.lstrip()
        tag = self._start.data
        if text.startswith(tag):
            self._position = _Position(Phase.INSIDE)
            self._read_inside(text[len(tag) :], num_tokens=0)
        elif tag.startswith(text):
            self._position = _Position(Phase.BEFORE, len(text))
        else:
            self._position = _Position(Phase.TEXT)

    def _read_inside(self, data: bytes, num_tokens: int = 1) -> None:
        state, rest = self._end.search(self._position.state, data)
        if rest is not None:
            self._forced = ()
            self._position = _Position(Phase.AFTER)
            self._read_after(rest)
            return
        count = self._position.num_tokens + num_tokens
        self._position = _Position(Phase.INSIDE, state, count)
        if self._forced:
            self._forced = self._forced[1:]
        else:
            self._force()

    def _read_after(self, data: bytes) -> None:
        if data.strip():
            self._position = _Position(Phase.TEXT)

    def _force(self) -> None:
        """After the maximum number of tokens, the rest of the closing tag is the only text."""
        limit = self._limits.max_tokens
        if self.phase is Phase.INSIDE and 0 <= limit <= self._position.num_tokens:
            self._forced = tuple(self._end.forced_ids(self._position.state))
