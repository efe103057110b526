"""The parts of generated text, in the order in which they are generated. All chat protocols format
the same parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

__all__ = [
    "OutputPart",
    "ReasoningPart",
    "TextPart",
    "ToolCallArguments",
    "ToolCallBegin",
    "ToolCallEnd",
]


@final
@dataclass(frozen=True)
class TextPart:
    """A piece of the final text."""

    text: str


@final
@dataclass(frozen=True)
class ReasoningPart:
    """A piece of the reasoning, without its tags."""

    text: str


@final
@dataclass(frozen=True)
class ToolCallBegin:
    """The begin of a tool call. `index` counts the calls of one sequence from 0."""

    index: int
    call_id: str  # unique, for example "call_1f…"
    name: str


@final
@dataclass(frozen=True)
class ToolCallArguments:
    """A piece of the JSON text of a call's arguments. All pieces together are one JSON object. A
    piece never ends inside an escape sequence.
    """

    index: int
    text: str


@final
@dataclass(frozen=True)
class ToolCallEnd:
    """The end of a tool call, whose arguments are complete."""

    index: int


OutputPart = TextPart | ReasoningPart | ToolCallBegin | ToolCallArguments | ToolCallEnd
