"""Collects the parts that the parser of an output format finds."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import final

from tgi.text.output.parts import (
    OutputPart,
    ReasoningPart,
    TextPart,
    ToolCallArguments,
    ToolCallBegin,
    ToolCallEnd,
)

__all__ = ["PartWriter"]


@final
class PartWriter:
    """The parts of one output, in the order of their generation.

    Whitespace beside a marker of the format belongs to the format and is dropped. Whitespace at the
    end of a text is therefore written only when more text follows, or when the output ends.
    """

    def __init__(self, tool_names: Collection[str], *, may_decline: bool = False) -> None:
        self.is_reasoning = False
        self.may_decline = may_decline  # see `OutputStyle`
        self.has_declined = False  # the model wrote that no tool is suitable
        self.num_complete_calls = 0
        self._tool_names = tool_names
        self._num_calls = 0
        self._parts: list[OutputPart] = []
        self._space = ""  # whitespace that belongs to the text if more text follows
        self._is_after_marker = False
        self._has_text = False  # text was written after the last marker

    def take(self) -> list[OutputPart]:
        """The parts since the last call."""
        parts, self._parts = self._parts, []
        return parts

    def has_tool(self, name: str) -> bool:
        """Whether the request defines a tool with this name."""
        return name in self._tool_names

    @property
    def num_calls(self) -> int:
        """Number of calls so far, including incomplete ones."""
        return self._num_calls

    def text(self, text: str) -> None:
        """Add text, or reasoning if the output is inside the reasoning."""
        text = self._space + text
        if self._is_after_marker and not self._has_text:
            text = text.lstrip()
        shown = text.rstrip()
        self._space = text[len(shown) :]
        if shown:
            self._has_text = True
            self._parts.append(ReasoningPart(shown) if self.is_reasoning else TextPart(shown))

    def marker(self) -> None:
        """Note a marker of the format. The whitespace beside the marker is dropped."""
        self._space, self._is_after_marker, self._has_text = "", True, False

    def open_reasoning(self) -> None:
        """Begin the reasoning."""
        self.marker()
        self.is_reasoning = True

    def close_reasoning(self) -> None:
        """End the reasoning."""
        self.marker()
        self.is_reasoning = False

    def begin_call(self, name: str) -> None:
        """Begin a tool call. Its arguments follow."""
        self.marker()
        call_id = f"call_{secrets.token_hex(12)}"
        self._parts.append(ToolCallBegin(self._num_calls, call_id, name))
        self._num_calls += 1

    def arguments(self, text: str) -> None:
        """Add a piece of the arguments of the call."""
        if text:
            self._parts.append(ToolCallArguments(self._num_calls - 1, text))

    def end_call(self) -> None:
        """End the call. Its arguments are complete."""
        self.num_complete_calls += 1
        self._parts.append(ToolCallEnd(self._num_calls - 1))

    def finish(self) -> None:
        """End the output. Whitespace at its end is written if it follows a text."""
        if self._space and (self._has_text or not self._is_after_marker):
            part = ReasoningPart if self.is_reasoning else TextPart
            self._parts.append(part(self._space))
        self._space = ""
