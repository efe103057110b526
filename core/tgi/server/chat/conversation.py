"""Adds the prompt of a chat to a request, with its tools and its reasoning options. All chat
protocols use this module.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

from tgi.server.chat.prompt import ConversationEntry, render_prompt
from tgi.server.chat.reasoning import ReasoningOptions
from tgi.server.chat.tools import ToolUse
from tgi.server.generation.parameters import TextRequest
from tgi.server.state import ServerState
from tgi.text.chat_template_traits import TemplateTraits
from tgi.text.output import OutputStyle, ToolChoice
from tgi.text.output.tools.tgi_calls import TgiFormat

__all__ = ["Conversation", "chat_text_request"]


@final
@dataclass(frozen=True)
class Conversation:
    """The conversation of one request. `entries` is the conversation as the client sent it, and
    `read_messages` converts it to messages.
    """

    entries: Sequence[ConversationEntry] | str
    read_messages: Callable[[], Sequence[Mapping[str, Any]]]
    tools: ToolUse | None = None
    tools_field: str = "tools"  # names the tools in error messages
    reasoning: ReasoningOptions = field(default_factory=ReasoningOptions)


async def chat_text_request(
    request: TextRequest, conversation: Conversation, state: ServerState
) -> TextRequest:
    """Return the request with the prompt of a conversation, and with the style and the constraint
    of its output.

    Raises `TemplateError`, `ToolError` and `ValidationError`, and the errors of `read_messages`.
    """
    template, tools, reasoning = state.chat_template, conversation.tools, conversation.reasoning
    traits = TemplateTraits() if template is None else template.traits(has_tools=tools is not None)
    variables = reasoning.template_variables(traits)
    prompt = await render_prompt(
        template, conversation.entries, conversation.read_messages, tools, variables
    )
    style = state.output_formats.for_request(() if tools is None else tools.tools, prompt)
    without_tools = None
    if tools is not None and _may_decline(request, tools, style):
        style = dataclasses.replace(style, may_decline=True)
        without_tools = partial(_without_tools, request, conversation, state, style)
    request = dataclasses.replace(
        request,
        prompt=prompt,
        add_special_tokens=False,
        output_style=style,
        without_tools=without_tools,
        max_reasoning_tokens=reasoning.limit(traits, style),
        reasoning_field=reasoning.limiting_field(),
    )
    if tools is None:
        return request
    if tools.is_large:
        exact, loose = await asyncio.to_thread(tools.constraints, style)
    else:
        exact, loose = tools.constraints(style)
    return dataclasses.replace(
        request,
        constraint=exact,
        constraint_field=conversation.tools_field,
        loose_constraint=loose,
        is_constraint_optional=tools.is_optional,
    )


async def _without_tools(
    request: TextRequest, conversation: Conversation, state: ServerState, style: OutputStyle
) -> TextRequest:
    """Return the request for the output after the model has declined all tools."""
    conversation = dataclasses.replace(conversation, tools=None)
    plain = await chat_text_request(request, conversation, state)
    # The response consists of parts, as a response to a request with tools.
    output_style = dataclasses.replace(plain.output_style, tool_format=style.tool_format)
    return dataclasses.replace(plain, output_style=output_style)


def _may_decline(request: TextRequest, tools: ToolUse, style: OutputStyle) -> bool:
    """Whether the model may write `no_tool` instead of a call, as in TGI. A second output is then
    generated. Several sequences of one prompt cannot be generated again separately.
    """
    is_auto = tools.choice is ToolChoice.AUTO
    return is_auto and isinstance(style.tool_format, TgiFormat) and request.num_sequences == 1
