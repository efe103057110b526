"""Converts the request body of `/v1/responses` to a request."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, final

from tgi.backend import SamplingParams
from tgi.errors import RequestError, ToolError, ValidationError
from tgi.server.chat.conversation import Conversation, chat_text_request
from tgi.server.chat.reasoning import ReasoningOptions
from tgi.server.chat.tools import ToolSelection, ToolUse, tool_definition, tool_use
from tgi.server.generation.constraints import format_constraint
from tgi.server.generation.parameters import (
    StopStyle,
    TextRequest,
    generate_parameters,
    reject_constraints,
    reject_unsupported,
)
from tgi.server.generation.protocols import RESPONSES
from tgi.server.openai.responses_api_schemas import (
    InputItem,
    ResponseReasoning,
    ResponsesRequest,
    ResponseTextConfig,
    ResponseTool,
)
from tgi.server.state import ServerState
from tgi.text.output import ToolDefinition

__all__ = ["StatelessError", "response_request"]

_TEXT_PARTS = ("input_text", "output_text", "text")
_ROLES = ("user", "assistant", "system", "developer")
_MANY_TOOLS = 64


@final
class StatelessError(RequestError):
    """Error 400 for a request that refers to stored responses."""

    status = 400
    error_type = "invalid_request_error"

    def __init__(self, feature: str) -> None:
        super().__init__(
            f"{feature} is not supported, because this server does not store responses. Send the"
            ' whole conversation in `input`. Clients do so if they send `"store": false`.'
        )


async def response_request(body: ResponsesRequest, state: ServerState) -> TextRequest:
    """Convert a body to a request. Raises `RequestError` for an invalid or unsupported field."""
    if body.previous_response_id is not None or body.conversation is not None:
        name = "conversation" if body.previous_response_id is None else "previous_response_id"
        raise StatelessError(f"`{name}`")
    reject_unsupported(
        {
            "prompt": body.prompt,
            "background": body.background,
            "truncation": body.truncation not in (None, "disabled"),
        }
    )
    reject_constraints(body.constraints, "text.format")
    parameters = generate_parameters(
        body,
        temperature=body.temperature,
        top_p=body.top_p,
        max_new_tokens=body.max_output_tokens,
        seed=body.seed,
        top_n_tokens=body.top_logprobs,
    )
    text = body.text or ResponseTextConfig()
    constraint = format_constraint(text.format, "text.format")
    if constraint is not None and body.tools:
        raise ToolError("`text.format` and `tools` are mutually exclusive")
    request = TextRequest(
        "",
        parameters,
        StopStyle.OPENAI,
        sampling=SamplingParams(logprobs="raw" if body.has_logprobs else "none"),
        protocol=RESPONSES,
        constraint=constraint,
        constraint_field="text.format",
    )
    is_long = len(body.tools or ()) > _MANY_TOOLS
    reasoning = body.reasoning or ResponseReasoning()
    conversation = Conversation(
        body.input,
        partial(_messages, body),
        await asyncio.to_thread(_tools, body) if is_long else _tools(body),
        tools_field="tools" if body.tool_choice in (None, "auto") else "tool_choice",
        reasoning=ReasoningOptions(
            body.chat_template_kwargs or {},
            reasoning.effort,
            body.enable_thinking,
            body.thinking_token_budget,
            text.verbosity,
            effort_field="reasoning.effort",
            verbosity_field="text.verbosity",
        ),
    )
    return await chat_text_request(request, conversation, state)


def _tools(body: ResponsesRequest) -> ToolUse | None:
    """Return the tools that the output may call, or None if it must not call any. Raises
    `ToolError` for invalid tools.
    """
    tools = body.tools or []
    return tool_use(
        [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)],
        _selection(body.tool_choice),
        is_parallel=body.parallel_tool_calls is not False,
        is_strict=any(tool.strict for tool in tools),
    )


def _tool(tool: ResponseTool, place: str) -> ToolDefinition:
    if tool.type != "function":
        raise ToolError(
            f"`{place}` of type `{tool.type[:64]}` is not supported: only functions are supported"
        )
    return tool_definition(tool.name, tool.description, tool.parameters, place)


def _selection(choice: object) -> ToolSelection:
    selection = ToolSelection.of_openai(choice)
    if selection is not None:
        return selection
    match choice:
        case {"type": "function", "name": str() as name}:
            return ToolSelection("named", name)
    raise ToolError("`tool_choice` must be `none`, `auto`, `required` or the name of a function")


def _messages(body: ResponsesRequest) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*messages, {"role": "user", "content": body.input}]
    reasoning = ""
    for index, item in enumerate(body.input):
        if item.type == "reasoning":
            reasoning += _reasoning(item)
            continue
        message = _message(item, index)
        if "tool_calls" in message and messages and messages[-1]["role"] == "assistant":
            # The text of one turn of the assistant and each of its calls are separate items.
            messages[-1].setdefault("tool_calls", []).extend(message["tool_calls"])
        else:
            messages.append(message)
        if reasoning and message["role"] == "assistant":
            # The chat template decides whether the prompt contains earlier reasoning.
            earlier = messages[-1].get("reasoning_content", "")
            messages[-1]["reasoning_content"] = earlier + reasoning
        reasoning = ""
    return messages


def _reasoning(item: InputItem) -> str:
    """The reasoning of an earlier response, or its summary. It is empty if it is encrypted."""
    parts = next((parts for parts in (item.content, item.summary) if isinstance(parts, list)), [])
    return "".join(str(part["text"]) for part in parts if isinstance(part, dict) and "text" in part)


def _message(item: InputItem, index: int) -> dict[str, Any]:
    if item.type == "item_reference":
        raise StatelessError(f"`input[{index}]` of type `item_reference`")
    if item.type == "function_call":
        return _function_call(item, index)
    if item.type == "function_call_output":
        return _function_output(item, index)
    if item.type not in (None, "message"):
        raise ValidationError(
            f"`input[{index}]` of type `{item.type}` is not supported by this version: leave it out"
        )
    if item.role not in _ROLES:
        raise ValidationError(
            f"`input[{index}].role` must be one of {', '.join(_ROLES)}. Given: {item.role}"
        )
    if isinstance(item.content, str):
        return {"role": item.role, "content": item.content}
    return {"role": item.role, "content": _parts(item.content, f"input[{index}].content")}


def _function_call(item: InputItem, index: int) -> dict[str, Any]:
    if item.name is None or item.call_id is None:
        raise ValidationError(
            f"`input[{index}]` of type `function_call` must have a `name` and a `call_id`"
        )
    function = {"name": item.name, "arguments": item.arguments or "{}"}
    call = {"id": item.call_id, "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _function_output(item: InputItem, index: int) -> dict[str, Any]:
    if item.call_id is None:
        raise ValidationError(
            f"`input[{index}]` of type `function_call_output` must have a `call_id`"
        )
    output = item.output
    if not isinstance(output, str):
        output = _parts(output, f"input[{index}].output")
    return {"role": "tool", "tool_call_id": item.call_id, "content": output}


def _parts(content: object, field: str) -> list[dict[str, str]]:
    if not isinstance(content, list):
        raise ValidationError(f"`{field}` must be a string or a list of parts")
    return [{"type": "text", "text": _part_text(part, field)} for part in content]


def _part_text(part: object, field: str) -> str:
    match part:
        case {"type": str() as kind, "text": str() as text} if kind in _TEXT_PARTS:
            return text
        case {"type": "refusal", "refusal": str() as text}:
            return text
    raise ValidationError(
        f"only text is supported in `{field}` by this version: remove images and files"
    )
