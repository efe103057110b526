"""TGI 3's schemas of the native responses as strict types: exactly these keys, in TGI's order."""

from typing import Annotated, Literal

import msgspec

U32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
U64 = Annotated[int, msgspec.Meta(ge=0)]


class Shape(msgspec.Struct, forbid_unknown_fields=True):
    """Base class of the schemas. A field without a default is required."""


class Token(Shape):
    id: U32
    text: str
    logprob: float | None
    special: bool


class PrefillToken(Shape):
    id: U32
    text: str
    logprob: float | None


FinishReason = Literal["length", "eos_token", "stop_sequence"]
Absent = msgspec.UnsetType


class BestOfSequence(Shape):
    generated_text: str
    finish_reason: FinishReason
    generated_tokens: U32
    seed: U64 | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    top_tokens: list[list[Token]] | Absent = msgspec.UNSET


class Details(Shape):
    finish_reason: FinishReason
    generated_tokens: U32
    seed: U64 | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    best_of_sequences: list[BestOfSequence] | Absent = msgspec.UNSET
    top_tokens: list[list[Token]] | Absent = msgspec.UNSET


class GenerateResponse(Shape):
    generated_text: str
    details: Details | Absent = msgspec.UNSET


class StreamDetails(Shape):
    finish_reason: FinishReason
    generated_tokens: U32
    seed: U64 | None
    input_length: U32


class StreamEvent(Shape):
    index: Annotated[int, msgspec.Meta(ge=1)]
    token: Token
    top_tokens: list[Token] | Absent = msgspec.field(default=msgspec.UNSET)
    generated_text: str | None = None
    details: StreamDetails | None = None


class Error(Shape):
    error: str
    error_type: str


class SimpleToken(Shape):
    id: U32
    text: str
    start: U64
    stop: U64


class ChatTokenize(Shape):
    tokenize_response: list[SimpleToken]
    templated_text: str


class Info(Shape):
    model_id: str
    model_sha: str | None
    model_pipeline_tag: str | None
    max_concurrent_requests: U64
    max_best_of: U64
    max_stop_sequences: U64
    max_input_tokens: U64
    max_total_tokens: U64
    validation_workers: U64
    max_client_batch_size: U64
    router: Literal["text-generation-router"]
    version: str
    sha: str | None
    docker_label: str | None


class Model(Shape):
    id: str
    object: Literal["model"]
    created: Literal[0]
    owned_by: str


class Models(Shape):
    object: Literal["list"]
    data: Annotated[list[Model], msgspec.Meta(min_length=1, max_length=1)]


class Predictions(Shape):
    predictions: list[str]


def check(body: bytes, shape: type) -> object:
    """Return the decoded response if `body` matches the schema `shape`. Raises
    `msgspec.ValidationError` if it does not, or `AssertionError` if the keys are in another order.
    """
    value = msgspec.json.decode(body, type=shape)
    untyped = msgspec.json.decode(body)
    assert _keys(msgspec.to_builtins(value)) == _keys(untyped), body
    return value


def _keys(value: object) -> object:
    if isinstance(value, dict):
        return [(key, _keys(member)) for key, member in value.items()]
    return [_keys(member) for member in value] if isinstance(value, list) else None
