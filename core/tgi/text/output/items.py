"""The items of a complete output: the parts of each text, reasoning and call joined."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import final

from tgi.text.output.parts import (
    OutputPart,
    ReasoningPart,
    TextPart,
    ToolCallArguments,
    ToolCallBegin,
    ToolCallEnd,
)

__all__ = ["CallItem", "OutputItem", "ReasoningItem", "TextItem", "join_parts"]


@final
@dataclass(frozen=True)
class TextItem:
    """A text between two other items."""

    text: str


@final
@dataclass(frozen=True)
class ReasoningItem:
    """A reasoning between two other items."""

    text: str


@final
@dataclass(frozen=True)
class CallItem:
    """A tool call. The arguments are JSON. If the call is not complete, they are the start of
    the JSON.
    """

    call_id: str
    name: str
    arguments: str
    is_complete: bool


OutputItem = TextItem | ReasoningItem | CallItem


@final
@dataclass
class _OpenItem:
    """An item whose parts are being joined. `first` is its first part."""

    first: OutputPart
    pieces: list[str] = field(default_factory=list)
    is_complete: bool = False

    def accepts(self, part: OutputPart) -> bool:
        """Whether the part belongs to this item."""
        if isinstance(part, ToolCallArguments | ToolCallEnd):
            return isinstance(self.first, ToolCallBegin) and self.first.index == part.index
        return not isinstance(part, ToolCallBegin) and type(part) is type(self.first)

    def joined(self) -> OutputItem:
        """The item."""
        text = "".join(self.pieces)
        match self.first:
            case TextPart():
                return TextItem(text)
            case ToolCallBegin(_, call_id, name):
                return CallItem(call_id, name, text, self.is_complete)
        return ReasoningItem(text)


def join_parts(parts: Iterable[OutputPart]) -> list[OutputItem]:
    """Join the parts of an output to items, in the order of their generation."""
    items: list[_OpenItem] = []
    for part in parts:
        if not items or not items[-1].accepts(part):
            items.append(_OpenItem(part))
        match part:
            case TextPart(text) | ReasoningPart(text) | ToolCallArguments(_, text):
                items[-1].pieces.append(text)
            case ToolCallEnd():
                items[-1].is_complete = True
    return [item.joined() for item in items]
