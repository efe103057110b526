"""Chooses the formats of tool calls and of reasoning for a model, from its chat template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from tgi.errors import ConfigError
from tgi.text.output.style import OutputStyle, ReasoningFormat, ToolDefinition, ToolFormat
from tgi.text.output.tools.deepseek import DeepSeekFormat
from tgi.text.output.tools.glm import GlmFormat
from tgi.text.output.tools.gpt_oss import CHANNEL_REASONING, GptOssFormat
from tgi.text.output.tools.json_calls import JsonCallFormat
from tgi.text.output.tools.llama import LlamaFormat
from tgi.text.output.tools.mistral import MistralFormat
from tgi.text.output.tools.tgi_calls import TgiFormat

__all__ = ["REASONING_PARSERS", "TOOL_CALL_PARSERS", "OutputFormats"]

AUTO, NONE = "auto", "none"

_BAR, _GAP = "\uff5c", "\u2581"


def _hermes(template: str, special_ids: Mapping[str, int]) -> ToolFormat:
    del template
    return JsonCallFormat(
        "hermes", ("<tool_call>",), "</tool_call>", space="\n", special_ids=special_ids
    )


def _granite(template: str, special_ids: Mapping[str, int]) -> ToolFormat:
    starts = ("<|tool_call|>", "<tool_call>")
    first = next((start for start in starts if start in template), starts[0])
    return JsonCallFormat(
        "granite", starts, has_list=True, first_start=first, special_ids=special_ids
    )


# The formats by name, in the order of their detection. The texts identify the format in a template.
_TOOL_FORMATS: dict[str, tuple[tuple[str, ...], Callable[[str, Mapping[str, int]], ToolFormat]]] = {
    "gpt_oss": (("<|channel|>",), lambda _, ids: GptOssFormat(ids)),
    "glm45": (("<arg_key>",), lambda _, ids: GlmFormat(ids)),
    "deepseek_v3": (
        (f"<{_BAR}tool{_GAP}calls{_GAP}begin{_BAR}>",),
        lambda template, ids: DeepSeekFormat("```json" in template, ids),
    ),
    "mistral": (
        ("[TOOL_CALLS]",),
        lambda template, ids: MistralFormat("[ARGS]" in template, ids),
    ),
    "granite": (("<|tool_call|>",), _granite),
    "hermes": (("<tool_call>",), _hermes),
    "llama3_json": (
        ("<|python_tag|>", "Environment: ipython"),
        lambda _, ids: LlamaFormat(ids),
    ),
    "tgi": ((), lambda _, ids: TgiFormat(ids)),
}

_GRANITE = ReasoningFormat(
    "granite",
    "Here is my thought process:",
    "Here is my response:",
    other_starts=("Here's my thought process:",),
)
_REASONING_FORMATS: dict[str, tuple[tuple[str, ...], ReasoningFormat]] = {
    "gpt_oss": (("<|channel|>",), CHANNEL_REASONING),
    "mistral": (("[THINK]",), ReasoningFormat("mistral", "[THINK]", "[/THINK]")),
    "think": (("<think>", "</think>"), ReasoningFormat("think")),
    "granite": ((_GRANITE.start,), _GRANITE),
}

TOOL_CALL_PARSERS = (AUTO, NONE, *_TOOL_FORMATS)
"""The values of `--tool-call-parser`."""

REASONING_PARSERS = (AUTO, NONE, *_REASONING_FORMATS)
"""The values of `--reasoning-parser`."""


@final
@dataclass(frozen=True)
class OutputFormats:
    """The formats of one model. None: the output is not searched for calls, or for reasoning."""

    tool_format: ToolFormat | None = field(default_factory=TgiFormat)
    reasoning: ReasoningFormat | None = None

    @classmethod
    def detect(
        cls,
        template_source: str,
        special_ids: Mapping[str, int],
        *,
        tool_call_parser: str = AUTO,
        reasoning_parser: str = AUTO,
    ) -> OutputFormats:
        """Choose the formats of a model. `template_source` is the text of its chat templates, and
        `special_ids` contains its special tokens by text. With `auto`, the markers in the templates
        determine the format. A model without markers calls tools in TGI's format.

        Raises `ConfigError` for an unknown name of a parser.
        """
        _check("--tool-call-parser", tool_call_parser, TOOL_CALL_PARSERS)
        _check("--reasoning-parser", reasoning_parser, REASONING_PARSERS)
        if tool_call_parser == AUTO:
            tool_call_parser = _first(template_source, _TOOL_FORMATS) or "tgi"
        if reasoning_parser == AUTO:
            reasoning_parser = _first(template_source, _REASONING_FORMATS) or NONE
        build = None if tool_call_parser == NONE else _TOOL_FORMATS[tool_call_parser][1]
        return cls(
            None if build is None else build(template_source, special_ids),
            None if reasoning_parser == NONE else _REASONING_FORMATS[reasoning_parser][1],
        )

    @property
    def tool_call_parser(self) -> str:
        """The name of the parser of tool calls, or `none`."""
        return NONE if self.tool_format is None else self.tool_format.name

    @property
    def reasoning_parser(self) -> str:
        """The name of the parser of reasoning, or `none`."""
        return NONE if self.reasoning is None else self.reasoning.name

    def for_request(self, tools: Sequence[ToolDefinition], rendered_prompt: str) -> OutputStyle:
        """The style of the output for a prompt. Without tools, the output is not searched for
        calls.
        """
        reasoning = self.reasoning
        is_open = reasoning is not None and rendered_prompt.rstrip().endswith(
            (reasoning.start, *reasoning.other_starts)
        )
        return OutputStyle(reasoning, is_open, self.tool_format if tools else None, tuple(tools))


def _first(template: str, formats: Mapping[str, tuple[tuple[str, ...], object]]) -> str | None:
    """The first format of which the template contains a text."""
    return next(
        (name for name, (texts, _) in formats.items() if any(text in template for text in texts)),
        None,
    )


def _check(option: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigError(
            f"`{option}` must be one of {', '.join(allowed)}. Given: {value}.",
            "Use `auto` to choose the parser from the chat template.",
        )
