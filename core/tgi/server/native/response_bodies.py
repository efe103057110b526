"""Response bodies of the native routes, built from generated sequences.

The event of an ordinary token is written without building a record, because its constant parts are
formatted only once. All other bodies are built as records.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tgi.server.generation.output import GeneratedSequence, GeneratedToken, ScoredToken
from tgi.server.generation.parameters import GenerateParameters
from tgi.server.http.json_format import (
    HOLE,
    format_f32,
    format_json,
    format_string,
    split_at_holes,
)
from tgi.server.native.response_schemas import (
    BestOfSequence,
    Details,
    JsonF32,
    PrefillToken,
    StreamDetails,
    StreamResponse,
    Token,
)

__all__ = ["details", "format_stream_response", "json_f32", "stream_response"]

_HEAD, _BEFORE_ID, _BEFORE_TEXT, _BEFORE_LOGPROB, _BEFORE_SPECIAL, _TAIL = split_at_holes(
    StreamResponse(
        index=HOLE, token=Token(HOLE, HOLE, HOLE, HOLE), generated_text=None, details=None
    )
)


def format_stream_response(
    token: GeneratedToken, parameters: GenerateParameters, text_prefix: str
) -> str:
    """The event of one token as JSON."""
    if token.result is not None or token.top_tokens:
        return format_json(stream_response(token, parameters, text_prefix))
    special = "true" if token.special else "false"
    return (
        f"{_HEAD}{token.index}{_BEFORE_ID}{token.id}{_BEFORE_TEXT}{format_string(token.text)}"
        f"{_BEFORE_LOGPROB}{format_f32(token.logprob)}{_BEFORE_SPECIAL}{special}{_TAIL}"
    )


def stream_response(
    token: GeneratedToken, parameters: GenerateParameters, text_prefix: str
) -> StreamResponse:
    """The event of one token. `text_prefix` comes before the generated text."""
    result = token.result
    return StreamResponse(
        index=token.index,
        token=_token(token),
        top_tokens=[_token(top) for top in token.top_tokens] or msgspec.UNSET,
        generated_text=None if result is None else text_prefix + result.text,
        details=None if result is None or not parameters.details else _stream_details(result),
    )


def _stream_details(result: GeneratedSequence) -> StreamDetails:
    return StreamDetails(
        result.finish_reason, result.num_generated_tokens, result.seed, result.input_length
    )


def details(
    best: GeneratedSequence,
    others: Sequence[GeneratedSequence],
    parameters: GenerateParameters,
    text_prefix: str,
) -> Details:
    """The details of the response: the details of the best sequence, and the other sequences."""
    return Details(
        best.finish_reason,
        best.num_generated_tokens,
        best.seed,
        _prefill(best),
        _tokens(best),
        [_best_of_sequence(other, parameters, text_prefix) for other in others] or msgspec.UNSET,
        _top_tokens(best) if parameters.top_n_tokens else msgspec.UNSET,
    )


def _best_of_sequence(
    sequence: GeneratedSequence, parameters: GenerateParameters, text_prefix: str
) -> BestOfSequence:
    return BestOfSequence(
        text_prefix + sequence.text,
        sequence.finish_reason,
        sequence.num_generated_tokens,
        sequence.seed,
        _prefill(sequence),
        _tokens(sequence),
        _top_tokens(sequence) if parameters.top_n_tokens else msgspec.UNSET,
    )


def _prefill(sequence: GeneratedSequence) -> list[PrefillToken]:
    return [PrefillToken(t.id, t.text, json_f32(t.logprob)) for t in sequence.prefill]


def _tokens(sequence: GeneratedSequence) -> list[Token]:
    return [_token(token) for token in sequence.tokens]


def _top_tokens(sequence: GeneratedSequence) -> list[list[Token]]:
    return [[_token(top) for top in token.top_tokens] for token in sequence.tokens]


def _token(token: GeneratedToken | ScoredToken) -> Token:
    return Token(token.id, token.text, json_f32(token.logprob), token.special)


def json_f32(value: float | None) -> JsonF32:
    """The JSON text of an f32, or null for None, NaN and the infinities."""
    return msgspec.Raw(format_f32(value).encode())
