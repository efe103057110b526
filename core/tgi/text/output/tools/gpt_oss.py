"""The channels of gpt-oss (the harmony format).

Each message of the output has a header, a text and an end marker:

    <|channel|>analysis<|message|>reasoning<|end|>
    <|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{…}<|call|>
    <|start|>assistant<|channel|>final<|message|>text<|return|>

The prompt ends with `<|start|>assistant`. A commentary without a recipient is text for the user.
Source: the harmony format page of OpenAI's cookbook.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

from tgi.grammar.constraint import Constraint
from tgi.text.output.part_writer import PartWriter
from tgi.text.output.reader import Parsing, TextReader
from tgi.text.output.style import ReasoningFormat, ToolChoice, ToolDefinition
from tgi.text.output.tools.calls import read_arguments
from tgi.text.output.tools.lark import call_rules, marker

__all__ = ["CHANNEL_REASONING", "GptOssFormat", "parse_channels"]

_START, _CHANNEL, _MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_CONSTRAIN, _END, _CALL, _RETURN = "<|constrain|>", "<|end|>", "<|call|>", "<|return|>"
_HEADER_STARTS = (_START, _CHANNEL)
_ENDS = (_END, _CALL, _RETURN, *_HEADER_STARTS)
_CHANNEL_NAME = re.compile(re.escape(_CHANNEL) + r"\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=(?:functions\.)?([^\s<]+)")
_REASONING = "analysis"

_MARKERS = (*_ENDS, _MESSAGE, _CONSTRAIN)

CHANNEL_REASONING = ReasoningFormat(
    "gpt_oss",
    f"{_CHANNEL}{_REASONING}{_MESSAGE}",
    _END,
    has_channels=True,
    tag_parts=_MARKERS,
)
"""The reasoning of gpt-oss."""


@final
@dataclass(frozen=True)
class GptOssFormat:
    """The calls of gpt-oss. Its reasoning is in other channels of the same output."""

    name: ClassVar[str] = "gpt_oss"
    markers: ClassVar[tuple[str, ...]] = _MARKERS
    special_ids: Mapping[str, int] = field(default_factory=dict)

    def parse(
        self, reader: TextReader, writer: PartWriter, tools: Sequence[ToolDefinition]
    ) -> Parsing[None]:
        """See `ToolFormat`."""
        del tools
        yield from parse_channels(reader, writer, has_reasoning=False)

    def constraint(
        self, tools: Sequence[ToolDefinition], choice: ToolChoice, *, is_parallel: bool
    ) -> Constraint:
        """See `ToolFormat`. The end token of a call ends the output, so there is one call."""
        del is_parallel
        start, channel, message, constrain = (
            marker(text, self.special_ids) for text in (_START, _CHANNEL, _MESSAGE, _CONSTRAIN)
        )
        rules = call_rules(
            tools, lambda name: (name[1:-1], ""), f'" " {constrain} "json" {message}'
        )
        call = f'{channel} "commentary to=functions." call'
        lines = [f"calls: {call}", rules]
        start_rule = f'start: ({start} "assistant")? calls'
        if choice is ToolChoice.AUTO:
            start_rule = f'start: ({start} "assistant")? (preamble? calls | final)'
            end = marker(_END, self.special_ids)
            lines += [
                f'final: {channel} "final" {message} TEXT',
                f'preamble: {channel} "commentary" {message} commentary {start} "assistant"',
                f"commentary{'' if _END in self.special_ids else '[lazy]'}: TEXT {end}",
                r"TEXT: /(.|\n)*/",
            ]
        return Constraint("lark", "\n".join([start_rule, *lines, ""]))


def parse_channels(
    reader: TextReader, writer: PartWriter, *, has_reasoning: bool, is_open: bool = False
) -> Parsing[None]:
    """Split an output into its messages. Without `has_reasoning` the reasoning is text. With
    `is_open` the output begins inside the reasoning.
    """
    header = ""
    if is_open:
        header = yield from _reasoning(reader, writer)
    while True:
        if not header:
            header = yield from reader.until(_HEADER_STARTS, writer.text)
            if not header:
                return
        pieces = [header]
        is_header = yield from reader.until((_MESSAGE,), pieces.append)
        header = "".join(pieces)
        channel, recipient = _CHANNEL_NAME.search(header), _RECIPIENT.search(header)
        if not is_header or channel is None:
            writer.text(header + is_header)
            header = ""
        elif recipient is not None:
            header = yield from _call(reader, writer, header, recipient[1])
        elif channel[1] == _REASONING and has_reasoning:
            header = yield from _reasoning(reader, writer)
        else:
            writer.marker()
            header = yield from _message(reader, writer)


def _reasoning(reader: TextReader, writer: PartWriter) -> Parsing[str]:
    writer.open_reasoning()
    header = yield from _message(reader, writer)
    writer.close_reasoning()
    return header


def _message(reader: TextReader, writer: PartWriter) -> Parsing[str]:
    """Write the text of a message. Returns the start of the next header, if the end marker is
    missing.
    """
    end = yield from reader.until(_ENDS, writer.text)
    if end:
        writer.marker()
    return end if end in _HEADER_STARTS else ""


def _call(reader: TextReader, writer: PartWriter, header: str, name: str) -> Parsing[str]:
    yield from reader.space()
    if not writer.has_tool(name) or (yield from reader.peek()) != "{":
        writer.text(header + _MESSAGE)
        return (yield from _message(reader, writer))
    writer.begin_call(name)
    yield from read_arguments(reader, writer)
    yield from reader.space()
    return (yield from _message(reader, writer))
