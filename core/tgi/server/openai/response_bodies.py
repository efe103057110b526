"""Shapes of what the OpenAI routes answer: objects, chunks, choices, log probabilities, usage.

Source: the OpenAI API reference. An object keeps the names and the order of TGI's where both have
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from tgi.server.generation.output import GeneratedSequence, GeneratedToken
from tgi.server.http.json_format import format_json, format_string
from tgi.types import FinishReason

__all__ = [
    "CHAT_CHUNK",
    "COMPLETION_CHUNK",
    "ChunkShape",
    "ChunkWriter",
    "Envelope",
    "Usage",
    "chat_choice",
    "chat_logprobs",
    "completion_choice",
    "completion_logprobs",
    "finish_reason",
]

Json = dict[str, Any]

_FINISH_REASONS = {
    FinishReason.LENGTH: "length",
    FinishReason.EOS_TOKEN: "stop",
    FinishReason.STOP_SEQUENCE: "stop",
}


@final
class Envelope:
    """The members that all objects of one answer share."""

    def __init__(
        self, *, id: str, kind: str, created: int, model: str, system_fingerprint: str
    ) -> None:
        """`created` is in seconds since 1970."""
        shared = {
            "id": id,
            "object": kind,
            "created": created,
            "model": model,
            "system_fingerprint": system_fingerprint,
        }
        self.head = format_json(shared).removesuffix("}")

    def encode(self, choices: list[Json], usage: Json | None) -> str:
        """One object."""
        return f'{self.head},"choices":{format_json(choices)},"usage":{format_json(usage)}}}'


@final
@dataclass
class Usage:
    """Tokens of one answer; a prompt counts once, however many sequences continue it."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @classmethod
    def of(cls, results: Sequence[Sequence[GeneratedSequence]]) -> Usage:
        """The usage of a whole response, from the sequences of each prompt. Sequences that
        `best_of` left out count too.
        """
        return cls(
            sum(sequences[0].input_length for sequences in results),
            sum(sequence.num_generated_tokens for sequences in results for sequence in sequences),
        )

    def to_json(self) -> Json:
        """The `usage` object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


@final
@dataclass(frozen=True)
class ChunkShape:
    """How the choice of a chunk is written: JSON around its text, and the log probabilities of a
    token at a text offset.
    """

    before_text: str
    after_text: str
    logprobs: Callable[[GeneratedToken, int], Json]


@final
class ChunkWriter:
    """Turns the tokens of one prompt into chunks: one per token, the last of a sequence with its
    finish reason.
    """

    def __init__(
        self, envelope: Envelope, shape: ChunkShape, first_index: int, *, has_logprobs: bool
    ) -> None:
        """`first_index` is that of the prompt's first choice."""
        self._head = f'{envelope.head},"choices":[{{"index":'
        self._shape = shape
        self._first_index = first_index
        self._has_logprobs = has_logprobs
        self._text_offsets: dict[int, int] = {}  # by sequence: characters told so far

    def chunk(self, token: GeneratedToken) -> str:
        """The chunk of one token. A special token is no text in OpenAI's answers."""
        logprobs = self._logprobs(token) if self._has_logprobs else "null"
        reason = "null" if token.result is None else f'"{finish_reason(token.result)}"'
        return self._chunk(token.sequence, token.plain_text, logprobs, reason)

    def opening(self, sequence: int, text: str) -> str:
        """A chunk of text that no token brought."""
        return self._chunk(sequence, text, "null", "null")

    def _chunk(self, sequence: int, text: str, logprobs: str, reason: str) -> str:
        shape = self._shape
        return (
            f"{self._head}{self._first_index + sequence}{shape.before_text}"
            f"{format_string(text)}{shape.after_text},"
            f'"logprobs":{logprobs},"finish_reason":{reason}}}],"usage":null}}'
        )

    def _logprobs(self, token: GeneratedToken) -> str:
        offset = self._text_offsets.get(token.sequence, 0)
        self._text_offsets[token.sequence] = offset + (0 if token.special else len(token.piece))
        return format_json(self._shape.logprobs(token, offset))


def finish_reason(sequence: GeneratedSequence) -> str:
    """OpenAI's name of the reason why a sequence ended."""
    return _FINISH_REASONS[sequence.finish_reason]


def chat_choice(index: int, sequence: GeneratedSequence, has_logprobs: bool) -> Json:
    """One choice of a chat."""
    return {
        "index": index,
        "message": {"role": "assistant", "content": sequence.text, "refusal": None},
        "logprobs": chat_logprobs(sequence.tokens) if has_logprobs else None,
        "finish_reason": finish_reason(sequence),
    }


def chat_logprobs(tokens: Sequence[GeneratedToken]) -> Json:
    """Tokens of a chat answer; `bytes` are the UTF-8 of the text that the token adds."""
    return {"content": [_chat_logprob(token) for token in tokens], "refusal": None}


def _chat_logprob(token: GeneratedToken) -> Json:
    top = [
        {"token": t.text, "logprob": t.logprob, "bytes": list(t.text.encode())}
        for t in token.top_tokens
    ]
    return {
        "token": token.piece,
        "logprob": token.logprob,
        "bytes": list(token.piece.encode()),
        "top_logprobs": top,
    }


def completion_choice(
    index: int,
    sequence: GeneratedSequence,
    prompt: str | None,
    has_logprobs: bool,
    hides_output: bool,
) -> Json:
    """One answer of `/v1/completions`. `prompt` is the text to echo; `hides_output` leaves the
    generated text out.
    """
    tokens = [] if hides_output else sequence.tokens
    text = (prompt or "") + ("" if hides_output else sequence.text)
    logprobs = None
    if has_logprobs:
        logprobs = completion_logprobs(tokens)
        if prompt is not None:
            logprobs = _with_prompt_logprobs(logprobs, sequence, len(prompt))
    return {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": finish_reason(sequence),
    }


def completion_logprobs(tokens: Sequence[GeneratedToken], text_offset: int = 0) -> Json:
    """Tokens of a completion as four lists; offsets count characters of the choice's text."""
    offsets = []
    for token in tokens:
        offsets.append(text_offset)
        text_offset += 0 if token.special else len(token.piece)
    return {
        "tokens": [token.piece for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{t.text: t.logprob for t in token.top_tokens} or None for token in tokens],
        "text_offset": offsets,
    }


def _with_prompt_logprobs(logprobs: Json, sequence: GeneratedSequence, prompt_length: int) -> Json:
    """The echoed prompt's tokens in front. Only what was given is scored, so they have no
    alternatives.
    """
    prefill = sequence.prefill
    offsets, position = [], 0
    for token in prefill:
        offsets.append(min(position, prompt_length))
        position += len(token.text)
    return {
        "tokens": [token.text for token in prefill] + logprobs["tokens"],
        "token_logprobs": [token.logprob for token in prefill] + logprobs["token_logprobs"],
        "top_logprobs": [None] * len(prefill) + logprobs["top_logprobs"],
        "text_offset": offsets + [prompt_length + offset for offset in logprobs["text_offset"]],
    }


CHAT_CHUNK = ChunkShape(
    ',"delta":{"role":"assistant","content":', "}", lambda token, _: chat_logprobs([token])
)
COMPLETION_CHUNK = ChunkShape(
    ',"text":', "", lambda token, text_offset: completion_logprobs([token], text_offset)
)
