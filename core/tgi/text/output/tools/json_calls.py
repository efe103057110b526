"""Formats in which a call is a JSON object between two markers, alone or in a list.

Hermes, Qwen 2.5 and Qwen 3 write `<tool_call>{"name": …, "arguments": {…}}</tool_call>`. Granite 3
writes `<|tool_call|>[{…}, {…}]` or `<tool_call>[{…}]`. Source: the chat templates of these models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import final

from tgi.grammar.constraint import Constraint
from tgi.text.output.part_writer import PartWriter
from tgi.text.output.reader import Parsing, TextReader
from tgi.text.output.style import ToolChoice, ToolDefinition
from tgi.text.output.tools.calls import parse_marked, read_call, read_calls
from tgi.text.output.tools.lark import CallBlock, call_rules, literal, marker, text_or_calls

__all__ = ["JsonCallFormat"]

_LIST_OF_CALLS = partial(read_calls, read_one=read_call, separator=",")


@final
@dataclass(frozen=True)
class JsonCallFormat:
    """A format with JSON objects between two markers.

    The parser accepts all markers of `starts`, one object or a list after the marker, and an end
    marker or none. The grammar contains `first_start` only. `has_list` is whether the model writes
    a list, and `space` is the text between a marker and an object.
    """

    name: str
    starts: tuple[str, ...]
    end: str = ""
    has_list: bool = False
    space: str = ""
    first_start: str = ""
    special_ids: Mapping[str, int] = field(default_factory=dict)

    @property
    def markers(self) -> tuple[str, ...]:
        """The texts of the format that may be special tokens."""
        return (*self.starts, self.end) if self.end else self.starts

    def parse(
        self, reader: TextReader, writer: PartWriter, tools: Sequence[ToolDefinition]
    ) -> Parsing[None]:
        """See `ToolFormat`."""
        del tools
        yield from parse_marked(reader, writer, dict.fromkeys(self.starts, self._read))

    def constraint(
        self, tools: Sequence[ToolDefinition], choice: ToolChoice, *, is_parallel: bool
    ) -> Constraint:
        """See `ToolFormat`."""
        start = self.first_start or self.starts[0]
        end = f" {marker(self.end, self.special_ids)}" if self.end else ""
        space = f"{literal(self.space)} " if self.space else ""
        calls = "call"
        if self.has_list:
            more = ' (", " call)*' if is_parallel else ""
            calls = f'"[" call{more} "]"'
        closing = f" {space}".rstrip() if self.end else ""
        block = CallBlock(
            trigger=marker(start, self.special_ids),
            body=f"{space}{calls}{closing}{end}",
            rules=call_rules(tools, lambda name: (f'{{"name": {name}, "arguments": ', "}")),
            is_special=start in self.special_ids,
        )
        has_blocks = is_parallel and not self.has_list
        return text_or_calls(block, choice, is_parallel=has_blocks, separator=self.space)

    def _read(self, reader: TextReader, writer: PartWriter) -> Parsing[bool]:
        yield from reader.space()
        is_list = yield from reader.literal("[")
        read_all = _LIST_OF_CALLS if is_list else read_call
        if not (yield from read_all(reader, writer)):
            return False
        for closing in ("]",) * is_list + (self.end,) * bool(self.end):
            yield from reader.space()
            yield from reader.literal(closing)
        return True
