"""Response bodies of the OpenAI routes: objects, chunks, choices, log probabilities and usage.

The records are those of `response_schemas`. Chunks are written without building a record for each
token, because their constant parts are formatted only once per response. All other bodies are built
as records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import msgspec

from tgi.server.generation.output import GeneratedSequence, GeneratedToken
from tgi.server.http.json_format import HOLE, format_json, format_string, split_at_holes
from tgi.server.openai.logprobs import (
    chat_logprobs,
    completion_logprobs,
    with_prompt_logprobs,
)
from tgi.server.openai.response_schemas import (
    ChatCompletionChunkChoice,
    ChatCompletionDelta,
    ChatStopReason,
    CompletionChoice,
    CompletionTokensDetails,
    PromptTokensDetails,
    StopReason,
    Usage,
)
from tgi.types import FinishReason

__all__ = [
    "CHAT_CHUNK",
    "COMPLETION_CHUNK",
    "ChunkShape",
    "ChunkWriter",
    "Envelope",
    "TokenCounts",
    "completion_choice",
    "finish_reason",
    "stop_reason",
]

_FINISH_REASONS: dict[FinishReason, StopReason] = {
    FinishReason.LENGTH: "length",
    FinishReason.EOS_TOKEN: "stop",
    FinishReason.STOP_SEQUENCE: "stop",
}


@final
@dataclass(frozen=True)
class Envelope:
    """The fields that all objects of one response share. `record` is their type."""

    record: Callable[..., msgspec.Struct]
    object: str
    id: str
    created: int  # in seconds since 1970
    model: str
    system_fingerprint: str

    def encode(self, choices: Sequence[msgspec.Struct], usage: Usage | None) -> str:
        """Encode one object of the response."""
        return format_json(self.object_with(choices, usage))

    def object_with(self, choices: Sequence[msgspec.Struct], usage: Usage | None) -> msgspec.Struct:
        """One object of the response."""
        return self.record(
            id=self.id,
            object=self.object,
            created=self.created,
            model=self.model,
            system_fingerprint=self.system_fingerprint,
            choices=choices,
            usage=usage,
        )


@final
@dataclass
class TokenCounts:
    """Numbers of tokens of one response. A prompt is counted once, even if it has several
    sequences.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0  # prompt tokens that were in the prefix cache
    reasoning_tokens: int | None = None  # None if the output is plain text

    @classmethod
    def of(cls, results: Sequence[Sequence[GeneratedSequence]]) -> TokenCounts:
        """The counts of a complete response. `results` contains the sequences of each prompt,
        including those that `best_of` excludes from the response.
        """
        return cls(
            sum(sequences[0].input_length for sequences in results),
            sum(sequence.num_generated_tokens for sequences in results for sequence in sequences),
            sum(sequences[0].num_cached_tokens for sequences in results),
            _num_reasoning_tokens(results),
        )

    @property
    def usage(self) -> Usage:
        """The usage that the response contains."""
        usage = Usage(
            self.prompt_tokens,
            self.completion_tokens,
            self.prompt_tokens + self.completion_tokens,
            PromptTokensDetails(self.cached_tokens),
        )
        if self.reasoning_tokens is not None:
            usage.completion_tokens_details = CompletionTokensDetails(self.reasoning_tokens)
        return usage


@final
@dataclass(frozen=True)
class ChunkShape:
    """Functions that build the parts of a chunk.

    `choice` takes the index, the text, the log probabilities and the finish reason. `logprobs`
    takes a token and its text offset in characters. `first_choice` builds the first part of a
    choice.
    """

    choice: Callable[[Any, Any, Any, Any], msgspec.Struct]
    logprobs: Callable[[GeneratedToken, int], msgspec.Struct]
    first_choice: Callable[[Any, Any, Any, Any], msgspec.Struct]


@final
class ChunkWriter:
    """Converts the tokens of one prompt to chunks. There is one chunk per token. The last chunk of
    a sequence contains the finish reason.
    """

    def __init__(
        self,
        envelope: Envelope,
        shape: ChunkShape,
        first_index: int,
        num_choices: int,
        *,
        has_logprobs: bool,
    ) -> None:
        """`first_index` is the index of the first choice of the prompt."""
        first, other = (
            split_at_holes(envelope.object_with([choice(HOLE, HOLE, HOLE, HOLE)], None))
            for choice in (shape.first_choice, shape.choice)
        )
        self._first_parts, self._parts = first, other
        self._unsent = set(range(num_choices))  # the choices of which no chunk was written
        self._shape = shape
        self._first_index = first_index
        self._has_logprobs = has_logprobs
        self._text_offsets: dict[int, int] = {}  # characters sent so far, by sequence

    def chunk(self, token: GeneratedToken) -> str:
        """The chunk of one token. As in OpenAI's API, the text contains no special tokens."""
        logprobs = self._logprobs(token) if self._has_logprobs else "null"
        reason = "null" if token.result is None else f'"{stop_reason(token.result)}"'
        return self._chunk(token.sequence, token.plain_text, logprobs, reason)

    def opening(self, sequence: int, text: str) -> str:
        """A chunk with text that was not generated, such as the echoed prompt."""
        return self._chunk(sequence, text, "null", "null")

    def _chunk(self, sequence: int, text: str, logprobs: str, reason: str) -> str:
        parts = self._parts
        if sequence in self._unsent:
            self._unsent.remove(sequence)
            parts = self._first_parts
        head, before_text, before_logprobs, before_reason, tail = parts
        return (
            f"{head}{self._first_index + sequence}{before_text}{format_string(text)}"
            f"{before_logprobs}{logprobs}{before_reason}{reason}{tail}"
        )

    def _logprobs(self, token: GeneratedToken) -> str:
        offset = self._text_offsets.get(token.sequence, 0)
        self._text_offsets[token.sequence] = offset + (0 if token.special else len(token.piece))
        return format_json(self._shape.logprobs(token, offset))


def finish_reason(sequence: GeneratedSequence) -> ChatStopReason:
    """The finish reason of a sequence in OpenAI's API. If the sequence has a complete tool call and
    its output was not cut, the reason is `tool_calls`.
    """
    reason = stop_reason(sequence)
    return "tool_calls" if reason == "stop" and sequence.has_calls else reason


def stop_reason(sequence: GeneratedSequence) -> StopReason:
    """The finish reason of a completion, which contains no tool calls."""
    return _FINISH_REASONS[sequence.finish_reason]


def completion_choice(
    index: int,
    sequence: GeneratedSequence,
    prompt: str | None,
    has_logprobs: bool,
    hides_output: bool,
) -> CompletionChoice:
    """One choice of a completion. `prompt` is the text to echo. If `hides_output` is True, the
    choice does not contain the generated text.
    """
    tokens = [] if hides_output else sequence.tokens
    text = (prompt or "") + ("" if hides_output else sequence.text)
    logprobs = None
    if has_logprobs:
        logprobs = completion_logprobs(tokens)
        if prompt is not None:
            logprobs = with_prompt_logprobs(logprobs, sequence, prompt)
    return CompletionChoice(index, text, logprobs, stop_reason(sequence))


def _num_reasoning_tokens(results: Sequence[Sequence[GeneratedSequence]]) -> int | None:
    numbers = [
        sequence.num_reasoning_tokens
        for sequences in results
        for sequence in sequences
        if sequence.parts is not None
    ]
    return sum(numbers) if numbers else None


def _chat_chunk_choice(
    index: Any,  # noqa: ANN401 - a value or `HOLE`
    text: Any,  # noqa: ANN401
    logprobs: Any,  # noqa: ANN401
    reason: Any,  # noqa: ANN401
    *,
    is_first: bool,
) -> ChatCompletionChunkChoice:
    role: Any = "assistant" if is_first else msgspec.UNSET
    delta = ChatCompletionDelta(role=role, content=text)
    return ChatCompletionChunkChoice(index, delta, logprobs, reason)


CHAT_CHUNK = ChunkShape(
    partial(_chat_chunk_choice, is_first=False),
    lambda token, _: chat_logprobs([token]),
    partial(_chat_chunk_choice, is_first=True),
)
COMPLETION_CHUNK = ChunkShape(
    CompletionChoice,
    lambda token, text_offset: completion_logprobs([token], text_offset),
    CompletionChoice,
)
