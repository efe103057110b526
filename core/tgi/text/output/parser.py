"""Splits generated text into reasoning, tool calls and the final text while it is generated.

The rules for all formats:

* If consecutive parts of a text, of a reasoning or of the arguments of a call are joined, the
  result does not depend on the division of the output into pieces.
* A call begins when the name of a known tool and the start of its arguments are complete. Text that
  is not a valid call up to this point is final text, including its markers. Examples are a call of
  an unknown tool and invalid JSON before the arguments.
* A call is complete when its arguments are one JSON object. If the output ends earlier, or if the
  arguments become invalid, the call remains incomplete: it has no `ToolCallEnd`. The text from the
  first invalid character on is final text.
* Whitespace beside a marker is part of the format and is dropped.
"""

from __future__ import annotations

from typing import final

from tgi.text.output.part_writer import PartWriter
from tgi.text.output.parts import OutputPart
from tgi.text.output.reader import Parsing, TextReader
from tgi.text.output.style import OutputStyle, ReasoningFormat
from tgi.text.output.tools.gpt_oss import parse_channels

__all__ = ["OutputParser"]


@final
class OutputParser:
    """The parser of one output."""

    def __init__(self, style: OutputStyle) -> None:
        self._reader = TextReader()
        self._writer = PartWriter(
            {tool.name for tool in style.tools}, may_decline=style.may_decline
        )
        self._parsing = _parse(style, self._reader, self._writer)
        self._advance()

    @property
    def is_reasoning(self) -> bool:
        """Whether the text so far ends inside the reasoning."""
        return self._writer.is_reasoning

    @property
    def num_complete_calls(self) -> int:
        """Number of complete tool calls so far."""
        return self._writer.num_complete_calls

    @property
    def has_declined(self) -> bool:
        """Whether the model wrote that no tool is suitable. Such an output has no parts."""
        return self._writer.has_declined

    def push(self, text: str) -> list[OutputPart]:
        """Add text. Returns the parts that are known now."""
        self._reader.push(text)
        self._advance()
        return self._writer.take()

    def finish(self) -> list[OutputPart]:
        """End the output. Returns the remaining parts. No text may be pushed afterwards."""
        self._reader.is_complete = True
        self._advance()
        self._writer.finish()
        return self._writer.take()

    def _advance(self) -> None:
        next(self._parsing, None)


def _parse(style: OutputStyle, reader: TextReader, writer: PartWriter) -> Parsing[None]:
    reasoning = style.reasoning
    if reasoning is not None and reasoning.has_channels:
        yield from parse_channels(
            reader, writer, has_reasoning=True, is_open=style.is_reasoning_open
        )
        return
    if reasoning is not None:
        yield from _parse_reasoning(reasoning, reader, writer, is_open=style.is_reasoning_open)
    if style.tool_format is not None:
        yield from style.tool_format.parse(reader, writer, style.tools)
    yield from reader.rest(writer.text)


def _parse_reasoning(
    reasoning: ReasoningFormat, reader: TextReader, writer: PartWriter, *, is_open: bool
) -> Parsing[None]:
    """Read the reasoning at the start of the output, if there is any. If the prompt has already
    opened the reasoning, the output may repeat the start tag.
    """
    if is_open:
        writer.open_reasoning()
    reader.mark()
    yield from reader.space()
    has_start = False
    for start in (reasoning.start, *reasoning.other_starts):
        has_start = has_start or (yield from reader.literal(start))
    if has_start:
        reader.release()
    else:
        reader.rewind()
        if not is_open:
            return
    writer.open_reasoning()
    yield from reader.until((reasoning.end,), writer.text)
    writer.close_reasoning()
