"""DeepSeek's formats. The name of a call is followed by a separator and the arguments. DeepSeek V3
and R1 write the type `function`, the separator, the name and the arguments in a code block. V3.1
writes the name, the separator and the arguments.

Source: the chat templates of these models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

from tgi.grammar.constraint import Constraint
from tgi.text.output.part_writer import PartWriter
from tgi.text.output.reader import Parsing, TextReader
from tgi.text.output.style import ToolChoice, ToolDefinition
from tgi.text.output.tools.calls import parse_marked, read_arguments, read_calls
from tgi.text.output.tools.lark import CallBlock, call_rules, literal, marker, text_or_calls

__all__ = ["DeepSeekFormat"]

_BAR, _GAP = "\uff5c", "\u2581"  # a full-width vertical line, and the lower block
_CALLS = f"<{_BAR}tool{_GAP}calls{_GAP}begin{_BAR}>"
_CALLS_END = f"<{_BAR}tool{_GAP}calls{_GAP}end{_BAR}>"
_CALL = f"<{_BAR}tool{_GAP}call{_GAP}begin{_BAR}>"
_CALL_END = f"<{_BAR}tool{_GAP}call{_GAP}end{_BAR}>"
_SEPARATOR = f"<{_BAR}tool{_GAP}sep{_BAR}>"
_TYPE = "function"
_CODE, _CODE_END = "```json", "```"
_NAME = re.compile(r"[^<\n]*")


@final
@dataclass(frozen=True)
class DeepSeekFormat:
    """The formats of DeepSeek. The parser recognizes both. The grammar is that of V3 and R1 if
    `has_code` is set.
    """

    name: ClassVar[str] = "deepseek_v3"
    markers: ClassVar[tuple[str, ...]] = (_CALLS, _CALLS_END, _CALL, _CALL_END, _SEPARATOR)
    has_code: bool = False
    special_ids: Mapping[str, int] = field(default_factory=dict)

    def parse(
        self, reader: TextReader, writer: PartWriter, tools: Sequence[ToolDefinition]
    ) -> Parsing[None]:
        """See `ToolFormat`."""
        del tools
        yield from parse_marked(reader, writer, {_CALLS: _read_all})

    def constraint(
        self, tools: Sequence[ToolDefinition], choice: ToolChoice, *, is_parallel: bool
    ) -> Constraint:
        """See `ToolFormat`."""
        calls, calls_end, begin, end, separator = (
            marker(text, self.special_ids) for text in self.markers
        )
        if self.has_code:
            before = f"{literal(_TYPE)} {separator}"
            rules = call_rules(tools, lambda name: (f"{name[1:-1]}\n{_CODE}\n", f"\n{_CODE_END}"))
            one = f"{begin} {before} call {end}"
        else:
            rules = call_rules(tools, lambda name: (name[1:-1], ""), separator)
            one = f"{begin} call {end}"
        more = f' ("\\n" {one})*' if is_parallel else ""
        if is_parallel and not self.has_code:
            more = f" ({one})*"
        body = f"{one}{more} {calls_end}"
        block = CallBlock(calls, body, rules, _CALLS in self.special_ids)
        return text_or_calls(block, choice, is_parallel=False)


def _read_all(reader: TextReader, writer: PartWriter) -> Parsing[bool]:
    yield from reader.space()
    if not (yield from read_calls(reader, writer, _read, "")):
        return False
    yield from reader.space()
    yield from reader.literal(_CALLS_END)
    return True


def _read(reader: TextReader, writer: PartWriter) -> Parsing[bool]:
    if not (yield from reader.literal(_CALL)):
        return False
    name = yield from reader.pattern(_NAME)
    if not (yield from reader.literal(_SEPARATOR)):
        return False
    if name == _TYPE and (yield from reader.peek()) != "{":
        name = yield from reader.pattern(_NAME)
        yield from reader.space()
        if not (yield from reader.literal(_CODE)):
            return False
        yield from reader.space()
    if not writer.has_tool(name) or (yield from reader.peek()) != "{":
        return False
    writer.begin_call(name)
    reader.release()
    if (yield from read_arguments(reader, writer)):
        for expected in (_CODE_END, _CALL_END):
            yield from reader.space()
            yield from reader.literal(expected)
    return True
