"""The formats in which a call is not marked: the output begins with the JSON object of a call.

Llama 3 writes `{"name": …, "parameters": {…}}`, and sometimes `<|python_tag|>` before the object.
Several calls are separated by semicolons. Source: the chat templates of Llama 3.1 and 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, final

from tgi.grammar.constraint import Constraint
from tgi.text.output.part_writer import PartWriter
from tgi.text.output.reader import Parsing, TextReader
from tgi.text.output.style import ToolChoice, ToolDefinition
from tgi.text.output.tools.calls import parse_marked, parse_unmarked, read_call, read_calls
from tgi.text.output.tools.lark import call_rules, calls_or_other_text, named_begin

__all__ = ["LlamaFormat"]

_PYTHON_TAG = "<|python_tag|>"
_read = partial(read_calls, read_one=read_call, separator=";")


def _read_marked(reader: TextReader, writer: PartWriter) -> Parsing[bool]:
    yield from reader.space()
    return (yield from _read(reader, writer))


@final
@dataclass(frozen=True)
class LlamaFormat:
    """The format of Llama 3."""

    name: ClassVar[str] = "llama3_json"
    markers: ClassVar[tuple[str, ...]] = (_PYTHON_TAG,)
    special_ids: Mapping[str, int] = field(default_factory=dict)

    def parse(
        self, reader: TextReader, writer: PartWriter, tools: Sequence[ToolDefinition]
    ) -> Parsing[None]:
        """See `ToolFormat`."""
        del tools
        yield from parse_unmarked(reader, writer, _read)
        yield from parse_marked(reader, writer, {_PYTHON_TAG: _read_marked})

    def constraint(
        self, tools: Sequence[ToolDefinition], choice: ToolChoice, *, is_parallel: bool
    ) -> Constraint:
        """See `ToolFormat`."""
        rules = call_rules(tools, lambda name: (f'{{"name": {name}, "parameters": ', "}"))
        more = ' ("; " call)*' if is_parallel else ""
        return calls_or_other_text(f"call{more}", rules, choice, named_begin(tools))
