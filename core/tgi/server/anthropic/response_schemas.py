"""Schemas of the responses and events of Anthropic's routes. A message consists of texts, thinking
and tool calls.

The routes write these records, and the OpenAPI document describes them. Source: the Anthropic API
reference.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tgi.server.generation.parameters import U32

__all__ = [
    "AnthropicError",
    "AnthropicModel",
    "AnthropicModels",
    "AnthropicResponse",
    "AnthropicUsage",
    "ContentBlockDelta",
    "ContentBlockStart",
    "ContentBlockStop",
    "ErrorDetails",
    "InputJsonDelta",
    "InputTokens",
    "MessageDelta",
    "MessageEnd",
    "MessageStart",
    "MessageStop",
    "SignatureDelta",
    "StopReason",
    "TextBlock",
    "TextDelta",
    "ThinkingBlock",
    "ThinkingDelta",
    "ToolUseBlock",
]

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class TextBlock(msgspec.Struct):
    """A part of a message that contains text."""

    type: Literal["text"]
    text: str


class ThinkingBlock(msgspec.Struct):
    """The reasoning of the model. Clients send the block back with its signature. This server does
    not check signatures.
    """

    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUseBlock(msgspec.Struct):
    """A tool call. `input` is an object. At the start of a stream, it is empty."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: msgspec.Raw


class AnthropicUsage(msgspec.Struct):
    """The number of tokens of a request and of its response. `input_tokens` excludes the tokens of
    the two other input fields.
    """

    input_tokens: U32
    cache_creation_input_tokens: U32
    cache_read_input_tokens: U32
    output_tokens: U32


class AnthropicResponse(msgspec.Struct):
    """A message of Anthropic's API. The message at the start of a stream has no stop reason."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Any]  # texts, thinking and tool calls
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: AnthropicUsage


class InputTokens(msgspec.Struct):
    """The number of tokens of a prompt."""

    input_tokens: U32


class ErrorDetails(msgspec.Struct):
    """The type and the message of an error."""

    type: str
    message: str


class AnthropicError(msgspec.Struct):
    """An error of Anthropic's API, as a response or as the last event of a stream."""

    type: Literal["error"]
    error: ErrorDetails


class AnthropicModel(msgspec.Struct):
    """The served model."""

    type: Literal["model"]
    id: str
    display_name: str
    created_at: str


class AnthropicModels(msgspec.Struct):
    """A list that contains the served model."""

    data: list[AnthropicModel]
    has_more: bool
    first_id: str
    last_id: str


class MessageStart(msgspec.Struct):
    """The first event of a stream."""

    type: Literal["message_start"]
    message: AnthropicResponse


class ContentBlockStart(msgspec.Struct):
    """The event before the content of a block."""

    type: Literal["content_block_start"]
    index: U32
    content_block: Any


class TextDelta(msgspec.Struct):
    """The text that an event adds to the message."""

    type: Literal["text_delta"]
    text: str


class ThinkingDelta(msgspec.Struct):
    """The text that an event adds to the thinking."""

    type: Literal["thinking_delta"]
    thinking: str


class SignatureDelta(msgspec.Struct):
    """The signature of a block with thinking, at its end."""

    type: Literal["signature_delta"]
    signature: str


class InputJsonDelta(msgspec.Struct):
    """The text that an event adds to the JSON of a tool call's input."""

    type: Literal["input_json_delta"]
    partial_json: str


class ContentBlockDelta(msgspec.Struct):
    """An event that adds to the content of a block."""

    type: Literal["content_block_delta"]
    index: U32
    delta: Any


class ContentBlockStop(msgspec.Struct):
    """The event after the content of a block."""

    type: Literal["content_block_stop"]
    index: U32


class MessageEnd(msgspec.Struct):
    """The reason why the message ended."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(msgspec.Struct):
    """The event that contains the reason why the message ended, and the usage of the message."""

    type: Literal["message_delta"]
    delta: MessageEnd
    usage: AnthropicUsage


class MessageStop(msgspec.Struct):
    """The last event of a stream."""

    type: Literal["message_stop"]
