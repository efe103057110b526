"""Splits generated text into reasoning, tool calls and the final text."""

from tgi.text.output.formats import REASONING_PARSERS, TOOL_CALL_PARSERS, OutputFormats
from tgi.text.output.items import CallItem, OutputItem, ReasoningItem, TextItem, join_parts
from tgi.text.output.json_scanner import complete_members
from tgi.text.output.parser import OutputParser
from tgi.text.output.parts import (
    OutputPart,
    ReasoningPart,
    TextPart,
    ToolCallArguments,
    ToolCallBegin,
    ToolCallEnd,
)
from tgi.text.output.style import (
    PLAIN,
    OutputStyle,
    ReasoningFormat,
    ToolChoice,
    ToolDefinition,
    ToolFormat,
)

__all__ = [
    "PLAIN",
    "REASONING_PARSERS",
    "TOOL_CALL_PARSERS",
    "CallItem",
    "OutputFormats",
    "OutputItem",
    "OutputParser",
    "OutputPart",
    "OutputStyle",
    "ReasoningFormat",
    "ReasoningItem",
    "ReasoningPart",
    "TextItem",
    "TextPart",
    "ToolCallArguments",
    "ToolCallBegin",
    "ToolCallEnd",
    "ToolChoice",
    "ToolDefinition",
    "ToolFormat",
    "complete_members",
    "join_parts",
]
