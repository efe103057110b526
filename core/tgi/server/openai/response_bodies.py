"""Response bodies of the OpenAI routes: objects, chunks, choices, log probabilities and usage.

The schemas are those of the OpenAI API reference. Members that TGI also has are in TGI's order.
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
    """The members that all objects of one response share."""

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
        """Encode one object of the response."""
        return f'{self.head},"choices":{format_json(choices)},"usage":{format_json(usage)}}}'


@final
@dataclass
class Usage:
    """Numbers of tokens of one response. A prompt is counted once, even if it has several
    sequences.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @classmethod
    def of(cls, results: Sequence[Sequence[GeneratedSequence]]) -> Usage:
        """The usage of a complete response. `results` contains the sequences of each prompt,
        including those that `best_of` excludes from the response.
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
    """The format of the choice in a chunk: the JSON before and after its text, and a function that
    returns the log probabilities of a token at a text offset in characters.
    """

    before_text: str
    after_text: str
    logprobs: Callable[[GeneratedToken, int], Json]


@final
class ChunkWriter:
    """Converts the tokens of one prompt to chunks. There is one chunk per token. The last chunk of
    a sequence contains the finish reason.
    """

    def __init__(
        self, envelope: Envelope, shape: ChunkShape, first_index: int, *, has_logprobs: bool
    ) -> None:
        """`first_index` is the index of the first choice of the prompt."""
        self._head = f'{envelope.head},"choices":[{{"index":'
        self._shape = shape
        self._first_index = first_index
        self._has_logprobs = has_logprobs
        self._text_offsets: dict[int, int] = {}  # characters sent so far, by sequence

    def chunk(self, token: GeneratedToken) -> str:
        """The chunk of one token. As in OpenAI's API, the text contains no special tokens."""
        logprobs = self._logprobs(token) if self._has_logprobs else "null"
        reason = "null" if token.result is None else f'"{finish_reason(token.result)}"'
        return self._chunk(token.sequence, token.plain_text, logprobs, reason)

    def opening(self, sequence: int, text: str) -> str:
        """A chunk with text that was not generated, such as the echoed prompt."""
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
    """The finish reason of a sequence in OpenAI's API."""
    return _FINISH_REASONS[sequence.finish_reason]


def chat_choice(index: int, sequence: GeneratedSequence, has_logprobs: bool) -> Json:
    """One choice of a chat completion."""
    return {
        "index": index,
        "message": {"role": "assistant", "content": sequence.text, "refusal": None},
        "logprobs": chat_logprobs(sequence.tokens) if has_logprobs else None,
        "finish_reason": finish_reason(sequence),
    }


def chat_logprobs(tokens: Sequence[GeneratedToken]) -> Json:
    """The log probabilities of a chat completion. `bytes` are the UTF-8 bytes of a token's text."""
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
    """One choice of a completion. `prompt` is the text to echo. If `hides_output` is True, the
    choice does not contain the generated text.
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
    """The log probabilities of a completion as four lists. Offsets are positions in the text of the
    choice, in characters.
    """
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
    """Insert the tokens of the echoed prompt before the generated tokens. Prompt tokens have no
    `top_logprobs`.
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
