"""Converts the request bodies of Anthropic's routes to requests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from tgi.backend import SamplingParams
from tgi.errors import ToolError, ValidationError
from tgi.grammar.constraint import Constraint
from tgi.server.anthropic.messages import chat_messages
from tgi.server.anthropic.schemas import (
    UNSUPPORTED_FIELDS,
    AnthropicMessage,
    AnthropicTool,
    AnthropicToolChoice,
    CountTokensRequest,
    MessagesRequest,
    OutputConfig,
    SharedFields,
)
from tgi.server.chat.conversation import Conversation, chat_text_request
from tgi.server.chat.reasoning import ReasoningOptions
from tgi.server.chat.tools import ToolSelection, ToolUse, tool_definition, tool_use
from tgi.server.generation.constraints import format_constraint
from tgi.server.generation.parameters import (
    GenerateParameters,
    StopStyle,
    TextRequest,
    generate_parameters,
    reject_constraints,
    reject_unsupported,
)
from tgi.server.generation.protocols import ANTHROPIC
from tgi.server.state import ServerState
from tgi.text.output import ToolDefinition

__all__ = ["message_prompt", "message_request"]

_MANY_TOOLS = 64
_THINKING_TYPES = ("enabled", "disabled", "adaptive")


async def message_request(body: MessagesRequest, state: ServerState) -> TextRequest:
    """Convert a body of `/v1/messages` to a request. Raises `RequestError` for an invalid or
    unsupported field.
    """
    parameters = generate_parameters(
        body,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        max_new_tokens=body.max_tokens,
        stop=body.stop_sequences or (),
        seed=body.seed,
    )
    return await _request(body, parameters, state)


async def message_prompt(body: CountTokensRequest, state: ServerState) -> str:
    """Render the prompt of a body. Raises `RequestError` for an invalid or unsupported field."""
    return (await _request(body, GenerateParameters(), state)).prompt


async def _request(
    body: SharedFields, parameters: GenerateParameters, state: ServerState
) -> TextRequest:
    reject_unsupported({name: getattr(body, name) for name in UNSUPPORTED_FIELDS})
    reject_constraints(body.constraints, "output_config.format")
    field, constraint = _format(body)
    if constraint is not None and body.tools:
        raise ToolError(f"`{field}` and `tools` are mutually exclusive")
    request = TextRequest(
        "",
        parameters,
        StopStyle.OPENAI,
        sampling=SamplingParams(),
        protocol=ANTHROPIC,
        constraint=constraint,
        constraint_field=field,
    )
    is_long = len(body.tools or ()) > _MANY_TOOLS
    entries = body.messages
    if isinstance(body.system, list):
        entries = [*entries, AnthropicMessage("user", body.system)]  # only its size matters
    conversation = Conversation(
        entries,
        partial(chat_messages, body),
        await asyncio.to_thread(_tools, body) if is_long else _tools(body),
        tools_field="tools" if body.tool_choice is None else "tool_choice",
        reasoning=_reasoning(body),
    )
    return await chat_text_request(request, conversation, state)


def _format(body: SharedFields) -> tuple[str, Constraint | None]:
    """Return the field with the output format, and the constraint of the format."""
    config = body.output_config or OutputConfig()
    if config.format is not None:
        return "output_config.format", format_constraint(config.format, "output_config.format")
    return "output_format", format_constraint(body.output_format, "output_format")


def _reasoning(body: SharedFields) -> ReasoningOptions:
    """Return the options about the reasoning. Raises `ValidationError` for an unknown type or a
    wrong budget.
    """
    effort = None if body.output_config is None else body.output_config.effort
    thinking = body.thinking
    kind = thinking.get("type") if isinstance(thinking, Mapping) else thinking
    if kind is not None and kind not in _THINKING_TYPES:
        raise ValidationError(
            f"`thinking` must have one of the types {', '.join(_THINKING_TYPES)}. Given: `{kind}`"
        )
    budget = None
    if kind == "enabled":
        budget = thinking.get("budget_tokens") if isinstance(thinking, Mapping) else None
        if type(budget) is not int or budget < 1:
            raise ValidationError(
                "`thinking.budget_tokens` must be a positive number of tokens. Given:"
                f" {str(budget)[:64]}"
            )
        if isinstance(body, MessagesRequest) and budget >= body.max_tokens:
            raise ValidationError(
                f"`max_tokens` must be greater than `thinking.budget_tokens`. Given:"
                f" {body.max_tokens} and {budget}"
            )
    return ReasoningOptions(
        effort=effort,
        is_enabled={"enabled": True, "disabled": False}.get(f"{kind}"),
        max_tokens=budget,
        effort_field="output_config.effort",
        enabled_field="thinking",
        limit_field="thinking",
    )


def _tools(body: SharedFields) -> ToolUse | None:
    """Return the tools that the output may call, or None if it must not call any. Raises
    `ToolError` for invalid tools.
    """
    tools, choice = body.tools or [], body.tool_choice or AnthropicToolChoice("auto")
    return tool_use(
        [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)],
        _selection(choice),
        is_parallel=not choice.disable_parallel_tool_use,
        is_strict=any(tool.strict for tool in tools),
    )


def _tool(tool: AnthropicTool, place: str) -> ToolDefinition:
    if tool.type not in (None, "custom"):
        raise ToolError(
            f"`{place}` of type `{str(tool.type)[:64]}` is not supported: only tools that the"
            " client runs are supported"
        )
    return tool_definition(tool.name, tool.description, tool.input_schema, place)


def _selection(choice: AnthropicToolChoice) -> ToolSelection:
    match choice.type:
        case "auto":
            return ToolSelection("auto")
        case "any":
            return ToolSelection("required")
        case "none":
            return ToolSelection("none")
        case "tool" if choice.name is not None:
            return ToolSelection("named", choice.name)
        case "tool":
            raise ToolError("`tool_choice` of type `tool` must have a `name`")
    raise ToolError(
        f"`tool_choice.type` must be one of auto, any, tool, none. Given: `{choice.type[:64]}`"
    )
