"""Schemas of the responses of the native routes and of the routes for information.

The routes write these records, and the OpenAPI document describes them. The order of the fields is
TGI's. A field without a default is always present. A field with the default `UNSET` is present only
if the request enables the field.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from tgi.server.generation.parameters import U32, U64, Usize
from tgi.types import FinishReason

__all__ = [
    "BackendInfo",
    "BestOfSequence",
    "Details",
    "GenerateResponse",
    "Info",
    "JsonF32",
    "KVCacheInfo",
    "MemoryInfo",
    "PrefillToken",
    "SimpleToken",
    "StreamDetails",
    "StreamResponse",
    "Token",
]

# An f32 as JSON text, because msgspec would write the digits of an f64.
JsonF32 = Annotated[
    msgspec.Raw,
    msgspec.Meta(title="f32", extra_json_schema={"type": "number", "nullable": True}),
]


class Token(msgspec.Struct):
    """A generated token, or an alternative to a generated token."""

    id: U32
    text: str
    logprob: JsonF32
    special: bool


class PrefillToken(msgspec.Struct):
    """A token of the prompt. The first token has no log probability."""

    id: U32
    text: str
    logprob: JsonF32


class BestOfSequence(msgspec.Struct):
    """A sequence that `best_of` generated and that is not the best one."""

    generated_text: str
    finish_reason: FinishReason
    generated_tokens: U32
    seed: U64 | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    top_tokens: list[list[Token]] | msgspec.UnsetType = msgspec.UNSET


class Details(msgspec.Struct):
    """The finish reason, the tokens and the seed of a generated text."""

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
    """The finish reason, the number of tokens and the seed of a streamed text."""

    finish_reason: FinishReason
    generated_tokens: U32
    seed: U64 | None
    input_length: U32


class StreamResponse(msgspec.Struct, kw_only=True):
    """One event of a stream. Only the last event has the generated text."""

    index: U32
    token: Token
    top_tokens: list[Token] | msgspec.UnsetType = msgspec.UNSET
    generated_text: str | None
    details: StreamDetails | None


class SimpleToken(msgspec.Struct):
    """A token and its byte range."""

    id: U32
    text: str
    start: Usize
    stop: Usize


class Info(msgspec.Struct):
    """The model and the limits of the server: TGI's 14 fields."""

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


class KVCacheInfo(msgspec.Struct):
    """The key-value cache."""

    mode: str
    block_size: Usize
    max_batch_total_tokens: Usize


class MemoryInfo(msgspec.Struct):
    """The memory that one part of the backend occupies."""

    label: str
    num_bytes: Usize
    detail: str


class BackendInfo(msgspec.Struct):
    """The backend, the limits that were negotiated with it, and the parsers of the output."""

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
    kv_cache: KVCacheInfo
    vocab_size: Usize
    memory: list[MemoryInfo]
    facts: dict[str, str]
    tool_call_parser: str
    reasoning_parser: str
