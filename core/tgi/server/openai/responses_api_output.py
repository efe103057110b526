"""Schemas of the response and of the events of `/v1/responses`. The output consists of messages,
reasoning and function calls, and the server stores no state.

The route writes these records, and the OpenAPI document describes them. Source: the OpenAI API
reference.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tgi.server.generation.parameters import U32, U64
from tgi.server.openai.response_schemas import ChatLogprob

__all__ = [
    "ArgumentsDeltaEvent",
    "ArgumentsDoneEvent",
    "ContentPart",
    "ContentPartEvent",
    "FunctionCallOutput",
    "IncompleteDetails",
    "InputTokensDetails",
    "OutputItem",
    "OutputItemEvent",
    "OutputTokensDetails",
    "Reasoning",
    "ReasoningDeltaEvent",
    "ReasoningDoneEvent",
    "ReasoningOutput",
    "ReasoningText",
    "Response",
    "ResponseError",
    "ResponseEvent",
    "ResponseStatus",
    "ResponseText",
    "ResponseUsage",
    "TextDeltaEvent",
    "TextDoneEvent",
    "TextFormat",
]

ResponseStatus = Literal["in_progress", "completed", "incomplete", "failed"]


class ContentPart(msgspec.Struct):
    """A part of a message that contains text. `annotations` is always empty."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[ChatLogprob]


class ReasoningText(msgspec.Struct):
    """The text of a reasoning item."""

    type: Literal["reasoning_text"]
    text: str


class OutputItem(msgspec.Struct):
    """A generated message. It has no content before its first token."""

    id: str
    type: Literal["message"]
    status: ResponseStatus
    role: Literal["assistant"]
    content: list[ContentPart]


class ReasoningOutput(msgspec.Struct):
    """A reasoning of the model. `summary` is always empty, because `content` is the whole
    reasoning.
    """

    id: str
    type: Literal["reasoning"]
    status: ResponseStatus
    summary: list[Any]
    content: list[ReasoningText]


class FunctionCallOutput(msgspec.Struct):
    """A function call. `arguments` is a JSON object as text. If the output was cut, it is the start
    of the object. The result of the call refers to `call_id`.
    """

    id: str
    type: Literal["function_call"]
    status: ResponseStatus
    arguments: str
    call_id: str
    name: str


class InputTokensDetails(msgspec.Struct):
    """Prompt tokens that were in the prefix cache."""

    cached_tokens: U32


class OutputTokensDetails(msgspec.Struct):
    """The number of reasoning tokens."""

    reasoning_tokens: U32


class ResponseUsage(msgspec.Struct):
    """The number of tokens of a request and of its response."""

    input_tokens: U32
    input_tokens_details: InputTokensDetails
    output_tokens: U32
    output_tokens_details: OutputTokensDetails
    total_tokens: U32


class ResponseError(msgspec.Struct):
    """The error that ended a streamed response."""

    code: Literal["server_error"]
    message: str


class IncompleteDetails(msgspec.Struct):
    """The reason why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class Reasoning(msgspec.Struct):
    """The settings of the reasoning in the request. The server creates no summaries."""

    effort: str | None
    summary: None


class TextFormat(msgspec.Struct):
    """The format of a text without constraints."""

    type: Literal["text"]


class ResponseText(msgspec.Struct):
    """The settings of the output text. `format` is that of the request."""

    format: Any


class Response(msgspec.Struct, kw_only=True):
    """The response object. The fields with one possible value are constant on this server."""

    id: str
    object: Literal["response"]
    created_at: U64
    status: ResponseStatus
    background: bool
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: U32 | None
    metadata: dict[str, str]
    model: str
    output: list[Any]  # messages, reasoning and function calls
    parallel_tool_calls: bool
    previous_response_id: None
    reasoning: Reasoning
    store: Literal[False]
    temperature: float
    text: ResponseText
    tool_choice: Any  # that of the request
    tools: list[Any]  # those of the request
    top_logprobs: U32
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None


class ResponseEvent(msgspec.Struct):
    """An event that contains the response object after a change of its status."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    sequence_number: U64
    response: Response


class OutputItemEvent(msgspec.Struct):
    """The event at the start or at the end of a message, a reasoning or a function call."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    sequence_number: U64
    output_index: U32
    item: Any


class ContentPartEvent(msgspec.Struct):
    """The event at the start or at the end of the text of a message or of a reasoning."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    sequence_number: U64
    item_id: str
    output_index: U32
    content_index: U32
    part: Any


class TextDeltaEvent(msgspec.Struct):
    """The event that adds text to the message."""

    type: Literal["response.output_text.delta"]
    sequence_number: U64
    item_id: str
    output_index: U32
    content_index: U32
    delta: str
    logprobs: list[ChatLogprob]


class TextDoneEvent(msgspec.Struct):
    """The event that contains the complete text."""

    type: Literal["response.output_text.done"]
    sequence_number: U64
    item_id: str
    output_index: U32
    content_index: U32
    text: str
    logprobs: list[ChatLogprob]


class ReasoningDeltaEvent(msgspec.Struct):
    """The event that adds text to a reasoning."""

    type: Literal["response.reasoning_text.delta"]
    sequence_number: U64
    item_id: str
    output_index: U32
    content_index: U32
    delta: str


class ReasoningDoneEvent(msgspec.Struct):
    """The event that contains a complete reasoning."""

    type: Literal["response.reasoning_text.done"]
    sequence_number: U64
    item_id: str
    output_index: U32
    content_index: U32
    text: str


class ArgumentsDeltaEvent(msgspec.Struct):
    """The event that adds text to the arguments of a function call."""

    type: Literal["response.function_call_arguments.delta"]
    sequence_number: U64
    item_id: str
    output_index: U32
    delta: str


class ArgumentsDoneEvent(msgspec.Struct):
    """The event that contains the complete arguments of a function call."""

    type: Literal["response.function_call_arguments.done"]
    sequence_number: U64
    item_id: str
    output_index: U32
    name: str
    arguments: str
