"""Shapes of the answers, for the OpenAPI document. A field without a default is always there."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tgi.server.generation.parameters import F32, U32, U64, Usize

__all__ = [
    "AnthropicError",
    "AnthropicResponse",
    "BackendInfo",
    "ChatCompletion",
    "ChatCompletionChunk",
    "ChatTokenizeResponse",
    "Completion",
    "ErrorResponse",
    "GenerateResponse",
    "InferResponse",
    "Info",
    "InputTokens",
    "LiveResponse",
    "ModelsInfo",
    "Response",
    "SimpleToken",
    "StreamResponse",
    "VertexResponse",
]


class ErrorResponse(msgspec.Struct):
    """What failed, and of which kind it is."""

    error: str
    error_type: str


class Token(msgspec.Struct):
    """A generated token, or an alternative to one."""

    id: U32
    text: str
    logprob: F32 | None
    special: bool


class PrefillToken(msgspec.Struct):
    """A token of the prompt; the first has no log probability."""

    id: U32
    text: str
    logprob: F32 | None


FinishReason = Literal["length", "eos_token", "stop_sequence"]


class BestOfSequence(msgspec.Struct):
    """A sequence that was not the best one."""

    generated_text: str
    finish_reason: FinishReason
    generated_tokens: U32
    seed: U64 | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    top_tokens: list[list[Token]] | msgspec.UnsetType = msgspec.UNSET


class Details(msgspec.Struct):
    """How a text came about."""

    finish_reason: FinishReason
    generated_tokens: U32
    seed: U64 | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    best_of_sequences: list[BestOfSequence] | msgspec.UnsetType = msgspec.UNSET
    top_tokens: list[list[Token]] | msgspec.UnsetType = msgspec.UNSET


class GenerateResponse(msgspec.Struct):
    """A generated text."""

    generated_text: str
    details: Details | msgspec.UnsetType = msgspec.UNSET


class StreamDetails(msgspec.Struct):
    """How a streamed text came about."""

    finish_reason: FinishReason
    generated_tokens: U32
    seed: U64 | None
    input_length: U32


class StreamResponse(msgspec.Struct):
    """One event of a stream; the last one has the text."""

    index: U32
    token: Token
    generated_text: str | None
    details: StreamDetails | None
    top_tokens: list[Token] | msgspec.UnsetType = msgspec.UNSET


class SimpleToken(msgspec.Struct):
    """A token and its byte range."""

    id: U32
    text: str
    start: Usize
    stop: Usize


class ChatTokenizeResponse(msgspec.Struct):
    """The prompt of a chat, and its tokens."""

    tokenize_response: list[SimpleToken]
    templated_text: str


class Info(msgspec.Struct):
    """Model and limits."""

    model_id: str
    model_sha: str | None
    model_pipeline_tag: str | None
    max_concurrent_requests: Usize
    max_best_of: Usize
    max_stop_sequences: Usize
    max_input_tokens: Usize
    max_total_tokens: Usize
    validation_workers: Usize
    max_client_batch_size: Usize
    router: str
    version: str
    sha: str | None
    docker_label: str | None


class BackendInfo(msgspec.Struct):
    """Which backend serves, and what was agreed with it."""

    backend: str
    api: list[int]
    features: list[str]
    sampling: list[str]
    sampling_caps: dict[str, float]
    max_total_tokens: Usize
    max_sequences: Usize
    max_step_tokens: Usize
    mixed: bool
    chunked: bool
    depth: Usize
    kv_cache: dict[str, Any]
    vocab_size: Usize
    memory: list[dict[str, Any]]
    facts: dict[str, str]


class ModelInfo(msgspec.Struct):
    """The served model."""

    id: str
    object: Literal["model"]
    created: U64
    owned_by: str


class ModelsInfo(msgspec.Struct):
    """A list of one."""

    object: Literal["list"]
    data: list[ModelInfo]


class Usage(msgspec.Struct):
    """Tokens counted."""

    prompt_tokens: U32
    completion_tokens: U32
    total_tokens: U32


class ChatLogprobs(msgspec.Struct):
    """Log probabilities of a chat's tokens, from the model's own distribution."""

    content: list[dict[str, Any]]
    refusal: None


class OutputMessage(msgspec.Struct):
    """What the assistant says."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatCompletionChoice(msgspec.Struct):
    """One answer of a chat."""

    index: U32
    message: OutputMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(msgspec.Struct):
    """The answer of a chat."""

    id: str
    object: Literal["chat.completion"]
    created: U64
    model: str
    system_fingerprint: str
    choices: list[ChatCompletionChoice]
    usage: Usage


class ChatCompletionDelta(msgspec.Struct):
    """What a chunk adds."""

    role: Literal["assistant"]
    content: str


class ChatCompletionChunkChoice(msgspec.Struct):
    """What a chunk adds to one answer."""

    index: U32
    delta: ChatCompletionDelta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class ChatCompletionChunk(msgspec.Struct):
    """A part of a streamed chat; the one with the usage has no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: U64
    model: str
    system_fingerprint: str
    choices: list[ChatCompletionChunkChoice]
    usage: Usage | None


class CompletionLogprobs(msgspec.Struct):
    """Log probabilities as columns, one entry per token."""

    tokens: list[str]
    token_logprobs: list[F32 | None]
    top_logprobs: list[dict[str, F32] | None]
    text_offset: list[Usize]


class CompletionChoice(msgspec.Struct):
    """One text, or what a chunk adds to it."""

    index: U32
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class Completion(msgspec.Struct):
    """Completed texts, or a part of them."""

    id: str
    object: Literal["text_completion"]
    created: U64
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None


class Response(msgspec.Struct):
    """A response of the Responses API; see OpenAI's reference for the constant members."""

    id: str
    object: Literal["response"]
    created_at: U64
    status: Literal["completed", "incomplete"]
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any]
    incomplete_details: dict[str, str] | None
    store: Literal[False]


class AnthropicResponse(msgspec.Struct):
    """A message of Anthropic's API."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, str]]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence"]
    stop_sequence: str | None
    usage: dict[str, U32]


class AnthropicError(msgspec.Struct):
    """An error of Anthropic's API."""

    type: Literal["error"]
    error: dict[str, str]


class InputTokens(msgspec.Struct):
    """Tokens of a prompt."""

    input_tokens: U32


class VertexResponse(msgspec.Struct):
    """One text per instance."""

    predictions: list[str]


class LiveResponse(msgspec.Struct):
    """The server answers."""

    live: bool


class InferResponse(msgspec.Struct):
    """Texts as arrays of bytes."""

    id: str
    outputs: list[dict[str, Any]]
