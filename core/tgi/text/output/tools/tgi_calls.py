"""TGI's format of a call: `{"function": {"_name": …, arguments}}` at the start of the output. It is
used for models whose chat template shows no other format. The demo model was trained on it.

TGI's prompt describes another format: `{"name": …, "parameters": {…}}`. Unless a call is required,
models use that format too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import msgspec

from tgi.grammar.constraint import Constraint
from tgi.text.output.part_writer import PartWriter
from tgi.text.output.reader import Parsing, TextReader
from tgi.text.output.style import ToolChoice, ToolDefinition
from tgi.text.output.tools.calls import parse_unmarked, read_arguments, read_call
from tgi.text.output.tools.lark import (
    call_rules,
    calls_or_other_text,
    named_begin,
    tool_schema,
)

__all__ = ["NO_TOOL", "TgiFormat"]

NO_TOOL = "no_tool"
"""The name of the function that a model calls if no tool is suitable. TGI defines this name."""

_APPLICATORS = ("$ref", "allOf", "anyOf", "oneOf")
_DEFINITIONS = ("$defs", "definitions")
_FUNCTION, _NAME = "function", "_name"


@final
@dataclass(frozen=True)
class TgiFormat:
    """The format of TGI 3."""

    name: ClassVar[str] = "tgi"
    markers: ClassVar[tuple[str, ...]] = ()
    special_ids: Mapping[str, int] = field(default_factory=dict)

    def parse(
        self, reader: TextReader, writer: PartWriter, tools: Sequence[ToolDefinition]
    ) -> Parsing[None]:
        """See `ToolFormat`."""
        del tools
        yield from parse_unmarked(reader, writer, _read)
        if not writer.num_calls:
            yield from parse_unmarked(reader, writer, read_call)
        yield from reader.rest(writer.text)

    def constraint(
        self, tools: Sequence[ToolDefinition], choice: ToolChoice, *, is_parallel: bool
    ) -> Constraint:
        """See `ToolFormat`. The format contains one call at most."""
        del is_parallel
        schemas = [_named_schema(tool) for tool in tools]
        if choice is ToolChoice.AUTO:
            schemas.append(_named_schema(ToolDefinition(NO_TOOL)))
        names = " | ".join(f"function_{index}" for index in range(len(schemas)))
        rules = [f"function_{index}: %json {schema}" for index, schema in enumerate(schemas)]
        calls = f'"{{\\"{_FUNCTION}\\": " ({names}) "}}"'
        begin = rf'\{{\s*"{_FUNCTION}"'
        if choice is ToolChoice.AUTO:
            rules.append(call_rules(tools, lambda name: (f'{{"name": {name}, "parameters": ', "}")))
            calls, begin = f"{calls} | call", f"{begin}|{named_begin(tools)}"
        return calls_or_other_text(calls, "\n".join(rules), choice, begin)


def _read(reader: TextReader, writer: PartWriter) -> Parsing[bool]:
    if not (yield from _first_key(reader, _FUNCTION)):
        return False
    if not (yield from _first_key(reader, _NAME)):
        return False
    name = yield from reader.string()
    if name is None or not writer.has_tool(name):
        return False
    yield from reader.space()
    is_empty = (yield from reader.peek()) == "}"
    if not is_empty and not (yield from reader.literal(",")):
        return False
    yield from reader.space()
    writer.begin_call(name)
    reader.release()
    if (yield from read_arguments(reader, writer, opening="{")):
        yield from reader.space()
        yield from reader.literal("}")
    return True


def _first_key(reader: TextReader, key: str) -> Parsing[bool]:
    """Skip the start of an object up to the value of its first key. Returns whether it is `key`."""
    for expected in ("{", json.dumps(key), ":"):
        if not (yield from reader.literal(expected)):
            return False
        yield from reader.space()
    return True


def _named_schema(tool: ToolDefinition) -> str:
    """The schema of the arguments with the name of the tool as the first member."""
    schema: Any = msgspec.json.decode(tool_schema(tool))
    schema = schema if isinstance(schema, dict) else {"type": "object"}
    named: Any = {"properties": {_NAME: {"const": tool.name}}, "required": [_NAME]}
    if any(keyword in schema for keyword in _APPLICATORS):
        # The first schema determines the order of the members.
        definitions = {name: schema.pop(name) for name in _DEFINITIONS if name in schema}
        whole = {**definitions, "type": "object", "allOf": [named, schema]}
    else:
        named["properties"] |= schema.get("properties", {})
        whole = {**schema, **named, "required": [_NAME, *schema.get("required", ())]}
    return msgspec.json.encode(whole).decode()
