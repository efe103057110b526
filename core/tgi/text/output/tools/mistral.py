"""Mistral's formats: `[TOOL_CALLS][{"name": …, "arguments": {…}}]`, and since 2025
`[TOOL_CALLS]name[ARGS]{…}`, possibly with `[CALL_ID]` and an id before `[ARGS]`.

Source: the tokenizers of mistral-common, versions 3 to 13.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, final

from tgi.grammar.constraint import Constraint
from tgi.text.output.part_writer import PartWriter
from tgi.text.output.reader import Parsing, TextReader
from tgi.text.output.style import ToolChoice, ToolDefinition
from tgi.text.output.tools.calls import parse_marked, read_arguments, read_call, read_calls
from tgi.text.output.tools.lark import CallBlock, call_rules, marker, text_or_calls

__all__ = ["MistralFormat"]

_START, _ARGUMENTS, _ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_NAME = re.compile(r"[^\s\[{]*")
_ID_TEXT = re.compile(r"[0-9A-Za-z]*")
_read_list = partial(read_calls, read_one=read_call, separator=",")


@final
@dataclass(frozen=True)
class MistralFormat:
    """The formats of Mistral. The parser recognizes all of them. The grammar is that of the later
    one if `has_names` is set.
    """

    name: ClassVar[str] = "mistral"
    markers: ClassVar[tuple[str, ...]] = (_START, _ARGUMENTS, _ID)
    has_names: bool = False
    special_ids: Mapping[str, int] = field(default_factory=dict)

    def parse(
        self, reader: TextReader, writer: PartWriter, tools: Sequence[ToolDefinition]
    ) -> Parsing[None]:
        """See `ToolFormat`."""
        del tools
        yield from parse_marked(reader, writer, {_START: _read})

    def constraint(
        self, tools: Sequence[ToolDefinition], choice: ToolChoice, *, is_parallel: bool
    ) -> Constraint:
        """See `ToolFormat`."""
        if self.has_names:
            middle = marker(_ARGUMENTS, self.special_ids)
            rules = call_rules(tools, lambda name: (name[1:-1], ""), middle)
            body = "call"
        else:
            rules = call_rules(tools, lambda name: (f'{{"name": {name}, "arguments": ', "}"))
            more = ' (", " call)*' if is_parallel else ""
            body = f'"[" call{more} "]"'
        block = CallBlock(marker(_START, self.special_ids), body, rules, _START in self.special_ids)
        return text_or_calls(block, choice, is_parallel=is_parallel and self.has_names)


def _read(reader: TextReader, writer: PartWriter) -> Parsing[bool]:
    yield from reader.space()
    if not (yield from reader.literal("[")):
        return (yield from _read_named(reader, writer))
    if not (yield from _read_list(reader, writer)):
        return False
    yield from reader.space()
    yield from reader.literal("]")
    return True


def _read_named(reader: TextReader, writer: PartWriter) -> Parsing[bool]:
    name = yield from reader.pattern(_NAME)
    if not writer.has_tool(name):
        return False
    if (yield from reader.literal(_ID)):
        yield from reader.pattern(_ID_TEXT)
    yield from reader.literal(_ARGUMENTS)
    yield from reader.space()
    if (yield from reader.peek()) != "{":
        return False
    writer.begin_call(name)
    reader.release()
    yield from read_arguments(reader, writer)
    return True
