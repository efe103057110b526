"""Writes grammars of tool calls in the Lark dialect of llguidance."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import msgspec

from tgi.grammar.constraint import Constraint
from tgi.text.output.style import ToolChoice, ToolDefinition

__all__ = [
    "CallBlock",
    "call_rules",
    "calls_or_other_text",
    "literal",
    "marker",
    "named_begin",
    "text_or_calls",
    "tool_schema",
]

_TEXT = r"/(.|\n)*/"


@final
@dataclass(frozen=True)
class CallBlock:
    """The grammar of one block of calls: a trigger, and the text after the trigger.

    `trigger` and `body` are Lark expressions. `body` uses the rules of `rules`. `is_special` is
    whether the trigger is a special token, which cannot be a part of a text.
    """

    trigger: str
    body: str
    rules: str
    is_special: bool


def literal(text: str) -> str:
    """A Lark expression for a text."""
    return json.dumps(text, ensure_ascii=False)


def marker(text: str, special_ids: Mapping[str, int]) -> str:
    """A Lark expression for a marker, which may be a special token."""
    return f"<[{special_ids[text]}]>" if text in special_ids else literal(text)


def tool_schema(tool: ToolDefinition) -> str:
    """The JSON schema of a tool's arguments, which are always an object."""
    schema: Any = msgspec.json.decode(tool.parameters)
    if schema is True:
        schema = {}
    if isinstance(schema, dict) and not isinstance(schema.get("type"), str):
        schema = {**schema, "type": "object"}
    return msgspec.json.encode(schema).decode()


def call_rules(
    tools: Sequence[ToolDefinition], around: Callable[[str], tuple[str, str]], middle: str = ""
) -> str:
    """The rule `call`, which is a call of any tool. `around` returns the text before and after the
    arguments for the JSON text of a tool's name. `middle` is a Lark expression directly before the
    arguments.
    """
    names = " | ".join(f"call_{index}" for index in range(len(tools)))
    lines = [f"call: {names}"]
    for index, tool in enumerate(tools):
        before, after = around(json.dumps(tool.name, ensure_ascii=False))
        end = f" {literal(after)}" if after else ""
        lines.append(f"call_{index}: {literal(before)} {middle} arguments_{index}{end}")
        lines.append(f"arguments_{index}: %json {tool_schema(tool)}")
    return "\n".join(lines)


def text_or_calls(
    block: CallBlock, choice: ToolChoice, *, is_parallel: bool, separator: str = ""
) -> Constraint:
    """The grammar of an output that consists of blocks (REQUIRED), or that may contain blocks after
    any text (AUTO). `separator` is the text between two blocks of REQUIRED.
    """
    lines = [f"block: {block.trigger} {block.body}", block.rules]
    if choice is ToolChoice.REQUIRED:
        between = f"{literal(separator)} " if separator else ""
        more = f" ({between}block)*" if is_parallel else ""
        lines = [f"start: block{more}", *lines]
    else:
        if block.is_special:
            lines = [f"text_block: TEXT {block.trigger} {block.body}", block.rules]
        else:
            lines = [
                f"text_block: trigger {block.body}",
                f"trigger[lazy]: TEXT {block.trigger}",
                block.rules,
            ]
        start = "start: text_block* ending" if is_parallel else "start: text_block | ending"
        lines = [start, "ending: TEXT", f"TEXT: {_TEXT}", *lines]
    return Constraint("lark", "\n".join([*lines, ""]))


def calls_or_other_text(calls: str, rules: str, choice: ToolChoice, begin: str) -> Constraint:
    """The grammar of an output that is `calls`, a Lark expression. With AUTO the output may also be
    any text that does not begin with a call. `begin` is the regular expression of such a begin.

    The lexer of llguidance reads the text as long as it can. `begin` must therefore end inside the
    first literal of `calls`.
    """
    lines = [f"calls: {calls}", rules]
    if choice is ToolChoice.REQUIRED:
        lines = ["start: calls", *lines]
    else:
        other = rf"TEXT: {_TEXT} & ~/\s*({begin})(.|\n)*/"
        lines = ["start: TEXT | calls", other, *lines]
    return Constraint("lark", "\n".join([*lines, ""]))


def named_begin(tools: Sequence[ToolDefinition]) -> str:
    """The regular expression of the begin of a call `{"name": …}` of one of the tools. A JSON text
    whose first member is another name is not a call.
    """
    names = "|".join(
        re.escape(json.dumps(tool.name, ensure_ascii=False)).replace("/", r"\/") for tool in tools
    )
    return rf'\{{\s*"name"\s*:\s*({names})'
