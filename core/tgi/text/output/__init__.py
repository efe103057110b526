"""Splits generated text into reasoning, tool calls and the final text."""

from tgi.text.output.formats import REASONING_PARSERS, TOOL_CALL_PARSERS, OutputFormats
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
    "OutputFormats",
    "OutputParser",
    "OutputPart",
    "OutputStyle",
    "ReasoningFormat",
    "ReasoningPart",
    "TextPart",
    "ToolCallArguments",
    "ToolCallBegin",
    "ToolCallEnd",
    "ToolChoice",
    "ToolDefinition",
    "ToolFormat",
]
