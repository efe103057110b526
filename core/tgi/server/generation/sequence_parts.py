"""The parts of one sequence: reasoning, tool calls and the final text."""

from __future__ import annotations

from typing import final

from tgi.text.output import OutputParser, OutputPart, OutputStyle
from tgi.types import FinishReason

__all__ = ["SequenceParts"]


@final
class SequenceParts:
    """Splits the text of one sequence into parts while it is generated."""

    def __init__(self, style: OutputStyle) -> None:
        self.all: list[OutputPart] = []  # all parts so far
        # Number of tokens inside the reasoning. The last token of its end tag is included.
        self.num_reasoning_tokens = 0
        self._parser = OutputParser(style)
        self._markers = style.markers

    @property
    def num_complete_calls(self) -> int:
        """Number of complete tool calls so far."""
        return self._parser.num_complete_calls

    @property
    def has_declined(self) -> bool:
        """Whether the model wrote that no tool is suitable. Such an output has no parts."""
        return self._parser.has_declined

    def is_marker(self, special_text: str) -> bool:
        """Whether the parser needs the special token with this text."""
        return special_text in self._markers

    def push(self, text: str, special_text: str, finish: FinishReason | None) -> list[OutputPart]:
        """Add the text of one token. Returns the parts that are known now. `special_text` is the
        text of a special token. With `finish` the token is the last one.
        """
        if special_text in self._markers and finish is not FinishReason.STOP_SEQUENCE:
            text += special_text
        was_reasoning = self._parser.is_reasoning
        parts = self._parser.push(text)
        if was_reasoning or self._parser.is_reasoning:
            self.num_reasoning_tokens += 1
        if finish is not None:
            parts += self._parser.finish()
        self.all += parts
        return parts
