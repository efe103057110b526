"""The format of GLM 4.5 and 4.6: a name, and the arguments as pairs of tags.

    <tool_call>name
    <arg_key>city</arg_key>
    <arg_value>Paris</arg_value>
    </tool_call>

The text of a value is the string itself if the schema of the tool allows a string only. Other
values are JSON. Source: the chat template of GLM-4.5.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, final

import msgspec

from tgi.grammar.constraint import Constraint
from tgi.text.output.json_scanner import JsonScanner
from tgi.text.output.part_writer import PartWriter
from tgi.text.output.reader import Parsing, TextReader
from tgi.text.output.style import ToolChoice, ToolDefinition
from tgi.text.output.tools.calls import parse_marked
from tgi.text.output.tools.lark import CallBlock, literal, marker, text_or_calls

__all__ = ["GlmFormat"]

_START, _END = "<tool_call>", "</tool_call>"
_KEY, _KEY_END = "<arg_key>", "</arg_key>"
_VALUE, _VALUE_END = "<arg_value>", "</arg_value>"
_NAME = re.compile(r"[^\n<]*")


@final
@dataclass(frozen=True)
class GlmFormat:
    """The format of GLM 4.5."""

    name: ClassVar[str] = "glm45"
    markers: ClassVar[tuple[str, ...]] = (_START, _END, _KEY, _KEY_END, _VALUE, _VALUE_END)
    special_ids: Mapping[str, int] = field(default_factory=dict)

    def parse(
        self, reader: TextReader, writer: PartWriter, tools: Sequence[ToolDefinition]
    ) -> Parsing[None]:
        """See `ToolFormat`."""
        schemas = {tool.name: _properties(tool) for tool in tools}
        yield from parse_marked(reader, writer, {_START: partial(_read, schemas)})

    def constraint(
        self, tools: Sequence[ToolDefinition], choice: ToolChoice, *, is_parallel: bool
    ) -> Constraint:
        """See `ToolFormat`. A string may be any text without the end tag, so that its pattern and
        its length are not enforced. An object whose schema lists no properties may have any keys.
        """
        start, end, key, key_end, value, value_end = (
            marker(text, self.special_ids) for text in self.markers
        )
        pair = f'{key} {{}} {key_end} "\\n" {value} {{}} "\\n"'
        is_special = _VALUE_END in self.special_ids
        # A string ends with the first end tag.
        lines = [
            r"KEY: /[^<\n]+/",
            r"STRING: /(.|\n)*/",
            f"string{'' if is_special else '[lazy]'}: STRING {value_end}",
            f"end: {value_end}",
        ]
        names = []
        for index, tool in enumerate(tools):
            names.append(f"call_{index}")
            pairs = _pair_rules(tool, index, pair, lines)
            lines.append(f'call_{index}: {literal(tool.name)} "\\n"{pairs}')
        rules = "\n".join([f"call: {' | '.join(names)}", *lines])
        block = CallBlock(start, f"call {end}", rules, _START in self.special_ids)
        return text_or_calls(block, choice, is_parallel=is_parallel, separator="\n")


def _pair_rules(tool: ToolDefinition, index: int, pair: str, lines: list[str]) -> str:
    """Add the rules of the values of a tool to `lines`. Returns the expression of all pairs."""
    properties = _properties(tool)
    if not properties:
        return f" ({pair.format('KEY', 'string')})*"
    schema: Any = msgspec.json.decode(tool.parameters)
    required = schema.get("required", ())
    definitions = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    found = ""
    for place, (name, value_schema) in enumerate(properties.items()):
        value = "string"
        choices = _choices(value_schema)
        if choices:
            value = f"({' | '.join(map(literal, choices))}) end"
        elif not _is_string(value_schema):
            value = f"value_{index}_{place}"
            whole = definitions | value_schema if isinstance(value_schema, dict) else value_schema
            lines.append(f"{value}: %json {msgspec.json.encode(whole).decode()}")
            value += " end"
        mark = "" if name in required else "?"
        found += f" ({pair.format(literal(name), value)}){mark}"
    return found


def _properties(tool: ToolDefinition) -> dict[str, Any]:
    schema: Any = msgspec.json.decode(tool.parameters)
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return properties if isinstance(properties, dict) else {}


def _choices(schema: object) -> list[str]:
    """The values of a string whose schema lists them. The list is empty for other schemas."""
    if not isinstance(schema, dict) or not _is_string(schema):
        return []
    values = [schema["const"]] if "const" in schema else schema.get("enum", ())
    return [value for value in values if isinstance(value, str)]


def _is_string(schema: object) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "string"


def _read(
    schemas: Mapping[str, Mapping[str, Any]], reader: TextReader, writer: PartWriter
) -> Parsing[bool]:
    yield from reader.space()
    name = (yield from reader.pattern(_NAME)).strip()
    if not writer.has_tool(name) or not (yield from reader.peek()):
        return False
    yield from reader.space()
    if not (yield from reader.literal(_END)):
        if not (yield from reader.literal(_KEY)):
            return False
        writer.begin_call(name)
        reader.release()
        if not (yield from _read_pairs(schemas[name], reader, writer)):
            return True
    else:
        writer.begin_call(name)
        writer.arguments("{}")
    writer.end_call()
    return True


def _read_pairs(
    schemas: Mapping[str, Any], reader: TextReader, writer: PartWriter
) -> Parsing[bool]:
    """Read the arguments after the first key tag. Returns whether they are complete."""
    opening = "{"
    while True:
        pieces: list[str] = []
        if not (yield from reader.until((_KEY_END,), pieces.append)):
            return False
        key = "".join(pieces).strip()
        yield from reader.space()
        if not (yield from reader.literal(_VALUE)):
            return False
        writer.arguments(f"{opening}{_quoted(key)}: ")
        opening = ", "
        if not (yield from _read_value(schemas.get(key), reader, writer)):
            return False
        yield from reader.space()
        if (yield from reader.literal(_END)):
            writer.arguments("}")
            return True
        if not (yield from reader.literal(_KEY)):
            return False


def _read_value(schema: object, reader: TextReader, writer: PartWriter) -> Parsing[bool]:
    if _is_string(schema):
        writer.arguments('"')
        end = yield from reader.until(
            (_VALUE_END,), lambda text: writer.arguments(_quoted(text)[1:-1])
        )
        writer.arguments('"' if end else "")
        return bool(end)
    pieces: list[str] = []
    if not (yield from reader.until((_VALUE_END,), pieces.append)):
        return False
    text = "".join(pieces)
    writer.arguments(text.strip() if _is_json(text.strip()) else _quoted(text))
    return True


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _is_json(text: str) -> bool:
    scanner = JsonScanner()
    # The space ends a number.
    return bool(text) and scanner.push(f"{text} ") == len(text) and scanner.is_complete
