"""Shapes of what the OpenAI routes answer: objects, chunks, choices, log probabilities, usage.

Source: the OpenAI API reference. An object keeps the names and the order of TGI's where both have them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import msgspec

from tgi.server.generation import GeneratedToken, GenerationResult
from tgi.server.pipeline import CompletedGeneration, CompletedPrompt, StreamItem
from tgi.types import FinishReason

__all__ = [
    "ChunkWriter",
    "Envelope",
    "Usage",
    "chat_choice",
    "chat_delta",
    "chat_logprobs",
    "completion_choice",
    "completion_delta",
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
@dataclass(frozen=True)
class Envelope:
    """The members that all objects of one answer share."""

    id: str
    kind: str
    created: int  # s since 1970
    model: str
    system_fingerprint: str

    def encode(self, choices: list[Json], usage: Json | None) -> bytes:
        """One object."""
        return msgspec.json.encode(
            {
                "id": self.id,
                "object": self.kind,
                "created": self.created,
                "model": self.model,
                "system_fingerprint": self.system_fingerprint,
                "choices": choices,
                "usage": usage,
            }
        )


@final
@dataclass
class Usage:
    """Tokens of one answer; a prompt counts once, however many sequences continue it."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @classmethod
    def of(cls, prompts: Sequence[CompletedPrompt]) -> Usage:
        """The usage of a whole answer, sequences that `best_of` left out included."""
        return cls(
            sum(prompt.sequences[0].result.input_length for prompt in prompts),
            sum(sequence.result.num_generated_tokens for prompt in prompts for sequence in prompt.sequences),
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
class ChunkWriter:
    """Turns the items of one prompt's generation into chunks: one per token, the last with the finish reason."""

    envelope: Envelope
    delta: Callable[[str, Json | None], Json]
    logprobs: Callable[[GeneratedToken, int], Json | None]  # of a token and the offset of its text
    first_index: int  # of the prompt's choices
    text_offsets: dict[int, int] = field(default_factory=dict)  # by sequence: characters told so far

    def chunk(self, item: StreamItem) -> bytes:
        """The chunk of one token."""
        token, result = item.token, item.result
        # A special token is no text in OpenAI's answers; the last one brings along text that was held back.
        text = "" if token.special and result is None else token.text
        offset = self.text_offsets.get(item.sequence, 0)
        self.text_offsets[item.sequence] = offset + (0 if token.special else len(token.piece))
        choice = {
            "index": self.first_index + item.sequence,
            **self.delta(text, self.logprobs(token, offset)),
            "finish_reason": None if result is None else finish_reason(result),
        }
        return self.envelope.encode([choice], None)

    def opening(self, sequence: int, text: str) -> bytes:
        """A chunk of text that no token brought."""
        choice = {"index": self.first_index + sequence, **self.delta(text, None), "finish_reason": None}
        return self.envelope.encode([choice], None)


def finish_reason(result: GenerationResult) -> str:
    """OpenAI's word for why a sequence ended."""
    return _FINISH_REASONS[result.finish_reason]


def chat_delta(text: str, logprobs: Json | None) -> Json:
    """What a chunk of a chat says."""
    return {"delta": {"role": "assistant", "content": text}, "logprobs": logprobs}


def completion_delta(text: str, logprobs: Json | None) -> Json:
    """What a chunk of a completion says."""
    return {"text": text, "logprobs": logprobs}


def chat_choice(index: int, completed: CompletedGeneration, has_logprobs: bool) -> Json:
    """One answer of a chat."""
    return {
        "index": index,
        "message": {"role": "assistant", "content": completed.result.text, "refusal": None},
        "logprobs": chat_logprobs(completed.tokens) if has_logprobs else None,
        "finish_reason": finish_reason(completed.result),
    }


def chat_logprobs(tokens: Sequence[GeneratedToken]) -> Json:
    """Tokens of a chat answer; `bytes` are the UTF-8 of the text that the token adds."""
    return {"content": [_chat_logprob(token) for token in tokens], "refusal": None}


def _chat_logprob(token: GeneratedToken) -> Json:
    top = [{"token": t.text, "logprob": t.logprob, "bytes": list(t.text.encode())} for t in token.top_tokens]
    return {"token": token.piece, "logprob": token.logprob, "bytes": list(token.piece.encode()), "top_logprobs": top}


def completion_choice(
    index: int, completed: CompletedGeneration, prompt: str | None, has_logprobs: bool, hides_output: bool
) -> Json:
    """One answer of `/v1/completions`. `prompt` is the text to echo; `hides_output` leaves the generated text out."""
    result = completed.result
    tokens = [] if hides_output else completed.tokens
    text = (prompt or "") + ("" if hides_output else result.text)
    logprobs = None
    if has_logprobs:
        logprobs = completion_logprobs(tokens)
        if prompt is not None:
            logprobs = _with_prompt_logprobs(logprobs, result, len(prompt))
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason(result)}


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


def _with_prompt_logprobs(logprobs: Json, result: GenerationResult, prompt_length: int) -> Json:
    """The echoed prompt's tokens in front. Only what was given is scored, so they have no alternatives."""
    prefill = result.prefill
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
