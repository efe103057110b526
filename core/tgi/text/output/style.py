"""The style of an output: the format of its reasoning, the format of its tool calls, and the tools
that it may call.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

from tgi.grammar.constraint import Constraint
from tgi.text.output.part_writer import PartWriter
from tgi.text.output.reader import Parsing, TextReader

__all__ = [
    "PLAIN",
    "OutputStyle",
    "ReasoningFormat",
    "ToolChoice",
    "ToolDefinition",
    "ToolFormat",
]


@final
class ToolChoice(enum.Enum):
    """Whether the output may or must contain a tool call."""

    AUTO = "auto"  # the model decides
    REQUIRED = "required"  # the output is one or more calls


@final
@dataclass(frozen=True)
class ToolDefinition:
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: str = '{"type":"object","properties":{}}'  # the JSON text of a JSON schema


@final
@dataclass(frozen=True)
class ReasoningFormat:
    """The tags around the reasoning of a model."""

    name: str  # the value of `--reasoning-parser`
    start: str = "<think>"
    end: str = "</think>"
    # Other texts that have the same meaning as `start`.
    other_starts: tuple[str, ...] = ()
    # The model writes the name of a channel before each part of its output. The reasoning, the
    # calls and the final text are in different channels.
    has_channels: bool = False
    # The texts that may be special tokens. They are parts of the tags.
    tag_parts: tuple[str, ...] = ()

    @property
    def markers(self) -> tuple[str, ...]:
        """The texts of the format that may be special tokens."""
        return (self.start, self.end, *self.tag_parts)


class ToolFormat(Protocol):
    """The format in which a model writes tool calls."""

    @property
    def name(self) -> str:
        """The value of `--tool-call-parser`."""

    @property
    def markers(self) -> tuple[str, ...]:
        """The texts of the format that may be special tokens."""

    def parse(
        self, reader: TextReader, writer: PartWriter, tools: Sequence[ToolDefinition]
    ) -> Parsing[None]:
        """Split the output after the reasoning into text and calls of `tools`, until its end. Text
        that is not a call of these tools is written as text.
        """

    def constraint(
        self, tools: Sequence[ToolDefinition], choice: ToolChoice, *, is_parallel: bool
    ) -> Constraint:
        """The grammar of an output that may (AUTO) or must (REQUIRED) contain calls of `tools`.
        With `is_parallel` it may contain several calls.
        """


@final
@dataclass(frozen=True)
class OutputStyle:
    """How the output of one request is split into parts. The default is plain text."""

    reasoning: ReasoningFormat | None = None
    is_reasoning_open: bool = False  # the prompt ends inside the reasoning
    tool_format: ToolFormat | None = None  # None = the output contains no tool calls
    tools: tuple[ToolDefinition, ...] = ()
    # The output is dropped if the model writes that no tool is suitable. In TGI's format, the model
    # then calls `no_tool`.
    may_decline: bool = False

    @property
    def markers(self) -> frozenset[str]:
        """The texts that may be special tokens and that the parser needs."""
        reasoning = () if self.reasoning is None else self.reasoning.markers
        return frozenset(reasoning + (() if self.tool_format is None else self.tool_format.markers))

    @property
    def is_plain(self) -> bool:
        """Whether the whole output is final text."""
        return self.reasoning is None and self.tool_format is None


PLAIN = OutputStyle()
"""The style of an output without reasoning and without tool calls."""
