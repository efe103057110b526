"""Chooses the formats of tool calls and of reasoning for a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from tgi.text.output.style import OutputStyle, ReasoningFormat, ToolDefinition, ToolFormat

__all__ = ["OutputFormats"]


@final
@dataclass(frozen=True)
class OutputFormats:
    """The formats of one model. None: the output is not searched for calls, or for reasoning."""

    tool_format: ToolFormat | None = None
    reasoning: ReasoningFormat | None = None

    def for_request(self, tools: Sequence[ToolDefinition], rendered_prompt: str) -> OutputStyle:
        """The style of the output for a prompt."""
        reasoning = self.reasoning
        is_open = reasoning is not None and rendered_prompt.rstrip().endswith(reasoning.start)
        return OutputStyle(reasoning, is_open, self.tool_format if tools else None, tuple(tools))
