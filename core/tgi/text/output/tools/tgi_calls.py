"""TGI's format of a call: `{"function": {"_name": …, arguments}}` at the start of the output. It is
used for models whose chat template shows no other format. The demo model was trained on it.

TGI's prompt describes another format: `{"name": …, "parameters": {…}}`. Unless a call is required,
models use that format too. It is also the format of a required call if the member `_name` would
change the meaning of the schema of the arguments.
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

_FUNCTION, _NAME = "function", "_name"
# Keywords of a schema that apply to the member `_name` too.
_COMMON_KEYWORDS = frozenset(
    {
        "$ref",
        "allOf",
        "anyOf",
        "const",
        "enum",
        "maxProperties",
        "minProperties",
        "oneOf",
        "patternProperties",
    }
)
_ROOT_REFERENCE = '"$ref":"#"'


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
        if writer.has_declined:
            yield from reader.rest(_drop)
            return
        if not writer.num_calls:
            yield from parse_unmarked(reader, writer, read_call)
        yield from reader.rest(writer.text)

    def constraint(
        self, tools: Sequence[ToolDefinition], choice: ToolChoice, *, is_parallel: bool
    ) -> Constraint:
        """See `ToolFormat`. The format contains one call at most."""
        del is_parallel
        has_other_text = choice is ToolChoice.AUTO
        named = [(tool, _named_schema(tool)) for tool in tools]
        schemas = [schema for _, schema in named if schema is not None]
        flat_tools = [tool for tool, schema in named if has_other_text or schema is None]
        if has_other_text:
            schemas += filter(None, [_named_schema(ToolDefinition(NO_TOOL))])
        rules = [f"function_{index}: %json {schema}" for index, schema in enumerate(schemas)]
        alternatives, begin = [], rf'\{{\s*"{_FUNCTION}"'
        if schemas:
            names = " | ".join(f"function_{index}" for index in range(len(schemas)))
            alternatives.append(f'"{{\\"{_FUNCTION}\\": " ({names}) "}}"')
        if flat_tools:
            rules.append(call_rules(flat_tools, _around))
            alternatives.append("call")
            begin = f"{begin}|{named_begin(flat_tools)}"
        return calls_or_other_text(" | ".join(alternatives), "\n".join(rules), choice, begin)


def _around(name: str) -> tuple[str, str]:
    return f'{{"name": {name}, "parameters": ', "}"


def _drop(text: str) -> None:
    """Ignore the text after a `no_tool`."""


def _read(reader: TextReader, writer: PartWriter) -> Parsing[bool]:
    if not (yield from _first_key(reader, _FUNCTION)):
        return False
    if not (yield from _first_key(reader, _NAME)):
        return False
    name = yield from reader.string()
    if name == NO_TOOL and writer.may_decline and not writer.has_tool(NO_TOOL):
        writer.has_declined = True
        return True
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


def _named_schema(tool: ToolDefinition) -> str | None:
    """The schema of the arguments with the name of the tool as the first member. None if this
    member would change the meaning of the schema.
    """
    text = tool_schema(tool)
    schema: Any = msgspec.json.decode(text)
    if not isinstance(schema, dict) or schema.keys() & _COMMON_KEYWORDS or _ROOT_REFERENCE in text:
        return None
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list) or _NAME in properties:
        return None
    named: dict[str, Any] = {
        "properties": {_NAME: {"const": tool.name}, **properties},
        "required": [_NAME, *required],
    }
    if "properties" not in schema:
        # Without this keyword, a schema that lists properties allows no others.
        named["additionalProperties"] = schema.get("additionalProperties", True)
    return msgspec.json.encode({**schema, **named}).decode()
