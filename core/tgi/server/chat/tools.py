"""The tools of a chat: their checks, the objects for the chat template, and the constraint on the
output. All chat protocols use this module.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import msgspec

from tgi.errors import ToolError
from tgi.grammar.constraint import Constraint
from tgi.server.http.json_format import format_json
from tgi.text.output import OutputStyle, ToolChoice, ToolDefinition

__all__ = [
    "DEFAULT_TOOL_PROMPT",
    "CalledFunction",
    "ToolSelection",
    "ToolUse",
    "tool_definition",
    "tool_use",
    "with_text",
]

# The text of TGI 3, `router/src/lib.rs`.
DEFAULT_TOOL_PROMPT = (
    "\nGiven the functions available, please respond with a JSON for a function call with its"
    " proper arguments that best answers the given prompt. Respond in the format {name: function"
    " name, parameters: dictionary of argument name and its value}.Do not use variables.\n"
)

_NAME = re.compile(r"[\w.:/-]{1,128}")
_NO_PARAMETERS = ToolDefinition.parameters
_ANY_ARGUMENTS = '{ "type": "object" }'  # a JSON schema
_MAX_SHOWN = 64
_MANY_TOOLS = 64
_MANY_CHARACTERS = 1 << 16  # in the schemas of all tools together


@final
@dataclass(frozen=True)
class ToolSelection:
    """The tool choice of a client. `name` is set if the kind is `named`."""

    kind: Literal["auto", "none", "required", "named"] = "auto"
    name: str = ""

    @classmethod
    def of_openai(cls, choice: object) -> ToolSelection | None:
        """Read a choice that names no tool, as in OpenAI's APIs. Returns None for other choices."""
        match choice:
            case None | "auto":
                return cls("auto")
            case "none":
                return cls("none")
            case "required":
                return cls("required")
        return None


class CalledFunction(msgspec.Struct):
    """A function in the text of a prompt. The fields are in TGI's order."""

    description: str | None
    name: str
    arguments: str


class ToolText(msgspec.Struct):
    """A tool in the text of a prompt. The fields are in TGI's order."""

    type: str
    function: CalledFunction


@final
@dataclass(frozen=True)
class ToolUse:
    """The tools that the output of one request may call."""

    tools: tuple[ToolDefinition, ...]
    choice: ToolChoice = ToolChoice.AUTO
    is_parallel: bool = True  # the output may contain several calls
    is_strict: bool = False  # the client requires that the arguments follow the schema
    prompt: str = ""  # text after the last message, or empty for the default

    @property
    def is_large(self) -> bool:
        """Whether the tools must not be processed in the event loop."""
        if len(self.tools) > _MANY_TOOLS:
            return True
        return sum(len(tool.parameters) for tool in self.tools) > _MANY_CHARACTERS

    @property
    def is_optional(self) -> bool:
        """Whether the output may be unconstrained."""
        return self.choice is ToolChoice.AUTO and self.is_parallel and not self.is_strict

    def template_objects(self) -> list[dict[str, Any]]:
        """The tools in the format that `transformers.apply_chat_template` passes to templates. The
        description is always a string, because templates join it with other strings.
        """
        return [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description or "",
                    "parameters": msgspec.json.decode(tool.parameters),
                },
            }
            for tool in self.tools
        ]

    def prompt_text(self) -> str:
        """TGI's text for the end of the last message, if the template does not use `tools`."""
        tools = [
            ToolText("function", CalledFunction(tool.description, tool.name, tool.parameters))
            for tool in self.tools
        ]
        return f"\n---\n{format_json(tools)}\n{self.prompt or DEFAULT_TOOL_PROMPT}"

    def constraints(self, style: OutputStyle) -> tuple[Constraint, Constraint | None]:
        """Return the constraint on an output with this style, and a weaker constraint that allows
        any arguments. The weaker constraint is None if the client requires exact arguments.

        Raises `ToolError` if the server does not recognise the tool calls of the model.
        """
        if style.tool_format is None:
            raise ToolError(
                "tools are not supported, because the server does not recognise tool calls of this"
                " model: start the server with `--tool-call-parser`, or leave out `tools`"
            )
        exact = style.tool_format.constraint(self.tools, self.choice, is_parallel=self.is_parallel)
        if self.choice is ToolChoice.REQUIRED or self.is_strict:
            return exact, None
        loose = [replace(tool, parameters=_ANY_ARGUMENTS) for tool in self.tools]
        return exact, style.tool_format.constraint(loose, self.choice, is_parallel=self.is_parallel)


def tool_definition(
    name: object, description: object, parameters: object, place: str
) -> ToolDefinition:
    """Create a tool. `place` is the field of the body, for example `tools[0].function`. Raises
    `ToolError` for an invalid name, description or schema.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ToolError(
            f"`{place}.name` must have 1 to 128 characters: letters, digits, `_`, `-`, `.`, `:` and"
            f" `/`. Given: {_shown(name)}"
        )
    if description is not None and not isinstance(description, str):
        raise ToolError(f"`{place}.description` must be a string. Given: {_shown(description)}")
    if parameters is None or parameters == {}:
        return ToolDefinition(name, description, _NO_PARAMETERS)
    if not isinstance(parameters, dict):
        raise ToolError(
            f"`{place}` of the tool `{name}` must have a JSON schema as parameters. Given:"
            f" {_shown(parameters)}"
        )
    kinds = parameters.get("type", "object")
    if "object" not in (kinds if isinstance(kinds, list) else [kinds]):
        raise ToolError(
            f"`{place}` of the tool `{name}` must have the schema of an object as parameters, with"
            f' `"type": "object"`. Given type: {_shown(kinds)}'
        )
    return ToolDefinition(name, description, msgspec.json.encode(parameters).decode())


def tool_use(
    tools: Sequence[ToolDefinition],
    selection: ToolSelection,
    *,
    is_parallel: bool = True,
    is_strict: bool = False,
    prompt: str = "",
) -> ToolUse | None:
    """Return the tools that the output may call, or None if it must not call any. Raises
    `ToolError` if two tools have the same name, or if the selection cannot be fulfilled.
    """
    by_name = {tool.name: tool for tool in tools}
    if len(by_name) < len(tools):
        repeated, _ = Counter(tool.name for tool in tools).most_common(1)[0]
        raise ToolError(f"`tools` must have different names. Repeated: `{repeated}`")
    if selection.kind == "named":
        if selection.name not in by_name:
            raise ToolError(f"Tool with name {selection.name[:_MAX_SHOWN]} not found")
        return ToolUse(
            (by_name[selection.name],), ToolChoice.REQUIRED, is_parallel, is_strict, prompt
        )
    if not tools:
        if selection.kind == "required":
            raise ToolError("`tool_choice` requires a tool call, but the request has no tools")
        return None
    if selection.kind == "none":
        return None
    choice = ToolChoice.REQUIRED if selection.kind == "required" else ToolChoice.AUTO
    return ToolUse(tuple(tools), choice, is_parallel, is_strict, prompt)


def with_text(messages: Sequence[Mapping[str, Any]], text: str) -> list[dict[str, Any]]:
    """Return the messages with a text at the end of the last message, if it has content."""
    changed = [dict(message) for message in messages]
    content = changed[-1].get("content") if changed else None
    if isinstance(content, list):
        changed[-1]["content"] = [*content, {"type": "text", "text": text}]
    elif isinstance(content, str) and content:
        changed[-1]["content"] = content + text
    return changed


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return f"`{text[:_MAX_SHOWN]}`"
