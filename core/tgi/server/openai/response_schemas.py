"""Schemas of the responses of the chat and completion routes.

The routes write these records, and the OpenAPI document describes them. Source: the OpenAI API
reference. The order of the fields is TGI's.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from tgi.server.generation.parameters import U32, U64, Usize
from tgi.server.native.response_schemas import JsonF32, SimpleToken

__all__ = [
    "ChatCompletion",
    "ChatCompletionChoice",
    "ChatCompletionChunk",
    "ChatCompletionChunkChoice",
    "ChatCompletionDelta",
    "ChatLogprob",
    "ChatLogprobs",
    "ChatStopReason",
    "ChatTokenizeResponse",
    "ChatTopLogprob",
    "Completion",
    "CompletionChoice",
    "CompletionLogprobs",
    "CompletionTokensDetails",
    "FunctionCall",
    "FunctionCallDelta",
    "ModelInfo",
    "ModelsInfo",
    "OpenAIError",
    "OpenAIErrorDetails",
    "OutputMessage",
    "PromptTokensDetails",
    "StopReason",
    "ToolCall",
    "ToolCallDelta",
    "Usage",
]

StopReason = Literal["stop", "length"]
ChatStopReason = Literal["stop", "length", "tool_calls"]


class ChatTokenizeResponse(msgspec.Struct):
    """The prompt of a chat, and its tokens."""

    tokenize_response: list[SimpleToken]
    templated_text: str


class PromptTokensDetails(msgspec.Struct):
    """Prompt tokens that were in the prefix cache."""

    cached_tokens: U32


class CompletionTokensDetails(msgspec.Struct):
    """Generated tokens that belong to the reasoning."""

    reasoning_tokens: U32


class Usage(msgspec.Struct):
    """The number of tokens of a request and of its response. `completion_tokens_details` is present
    if the output was searched for reasoning or tool calls.
    """

    prompt_tokens: U32
    completion_tokens: U32
    total_tokens: U32
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | msgspec.UnsetType = msgspec.UNSET


class ChatTopLogprob(msgspec.Struct):
    """An alternative to a token. `bytes` are the bytes of the token, which may be a part of a
    character.
    """

    token: str
    logprob: JsonF32
    bytes: list[int]


class ChatLogprob(msgspec.Struct):
    """A token of a chat. `bytes` are the bytes of the token, which may be a part of a character."""

    token: str
    logprob: JsonF32
    bytes: list[int]
    top_logprobs: list[ChatTopLogprob]


class ChatLogprobs(msgspec.Struct):
    """Log probabilities of a chat's tokens, from the model's unmodified distribution."""

    content: list[ChatLogprob]
    refusal: None


class FunctionCall(msgspec.Struct):
    """The function that a tool call names. `arguments` is a JSON object as text. If the output was
    cut, it is the start of the object.
    """

    name: str
    arguments: str


class ToolCall(msgspec.Struct):
    """A tool call in a message."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class OutputMessage(msgspec.Struct):
    """The message that the assistant generated. `content` is null if the message consists of tool
    calls. `reasoning` is another name of `reasoning_content`.
    """

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    reasoning: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[ToolCall] | msgspec.UnsetType = msgspec.UNSET


class ChatCompletionChoice(msgspec.Struct):
    """One of the generated messages of a chat."""

    index: U32
    message: OutputMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatStopReason


class ChatCompletion(msgspec.Struct):
    """The response to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: U64
    model: str
    system_fingerprint: str
    choices: list[ChatCompletionChoice]
    usage: Usage


class FunctionCallDelta(msgspec.Struct, kw_only=True):
    """The name of a function, or text that a chunk adds to its arguments."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    arguments: str


class ToolCallDelta(msgspec.Struct, kw_only=True):
    """The change of a tool call. The first chunk of the call contains its id and its name."""

    index: U32
    id: str | msgspec.UnsetType = msgspec.UNSET
    type: Literal["function"] | msgspec.UnsetType = msgspec.UNSET
    function: FunctionCallDelta


class ChatCompletionDelta(msgspec.Struct, kw_only=True):
    """The text, the reasoning or the tool call that a chunk adds. The first chunk of a choice
    contains the role. `reasoning` is another name of `reasoning_content`.
    """

    role: Literal["assistant"] | msgspec.UnsetType = msgspec.UNSET
    content: str | msgspec.UnsetType = msgspec.UNSET
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    reasoning: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[ToolCallDelta] | msgspec.UnsetType = msgspec.UNSET


class ChatCompletionChunkChoice(msgspec.Struct):
    """The part of a chunk that belongs to one of the generated messages."""

    index: U32
    delta: ChatCompletionDelta
    logprobs: ChatLogprobs | None
    finish_reason: ChatStopReason | None


class ChatCompletionChunk(msgspec.Struct):
    """A part of a streamed chat. The chunk with the usage has no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: U64
    model: str
    system_fingerprint: str
    choices: list[ChatCompletionChunkChoice]
    usage: Usage | None


class CompletionLogprobs(msgspec.Struct):
    """Log probabilities as columns, with one entry per token. A map of `top_logprobs` contains the
    token itself and its alternatives.
    """

    tokens: list[str]
    token_logprobs: list[JsonF32]
    top_logprobs: list[dict[str, JsonF32] | None]
    text_offset: list[Usize]


class CompletionChoice(msgspec.Struct):
    """One completed text, or the part of the text that a chunk adds."""

    index: U32
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: StopReason | None


class Completion(msgspec.Struct):
    """Completed texts, or a part of the texts in a stream."""

    id: str
    object: Literal["text_completion"]
    created: U64
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None


class ModelInfo(msgspec.Struct):
    """The served model."""

    id: str
    object: Literal["model"]
    created: U64
    owned_by: str


class ModelsInfo(msgspec.Struct):
    """A list that contains the served model."""

    object: Literal["list"]
    data: list[ModelInfo]


class OpenAIErrorDetails(msgspec.Struct):
    """The message of an error, the field that caused it, and OpenAI's code for it."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(msgspec.Struct):
    """An error as a response, or as the last event of a stream. `error_type` is TGI's field."""

    error: OpenAIErrorDetails
    error_type: str
