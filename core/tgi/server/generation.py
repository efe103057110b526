"""One sequence from engine to text: token events, then one result.

The engine ends a sequence on length and on EOS; stop strings are found here, in the text, and end it by an abort. Surplus tokens
are neither shown nor counted.
"""

from __future__ import annotations

import enum
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, final

import msgspec

from tgi.backend import SamplingParams
from tgi.engine.stream import SequenceRequest, SequenceStream
from tgi.errors import GenerationError, IncompleteGenerationError
from tgi.scheduler import SequenceOutput, TokenOutput
from tgi.text import Detokenizer, StoppingCriteria, Tokenizer
from tgi.types import FinishReason

__all__ = [
    "GeneratedToken",
    "GenerationRequest",
    "GenerationResult",
    "Generator",
    "PrefillToken",
    "StopStyle",
    "TopToken",
]

_NANOSECONDS = 1e-9


class StopStyle(enum.Enum):
    """Whether the text of a stop string is shown."""

    NATIVE = "native"  # the text ends right after it; the last token event keeps its whole text
    OPENAI = "openai"  # the text ends right before it, and no beginning of it is ever streamed


@final
@dataclass(frozen=True)
class GenerationRequest:
    """A validated request for one sequence."""

    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    seed: int
    max_new_tokens: int
    eos_token_ids: tuple[int, ...] = ()  # empty = EOS does not end it
    stop: tuple[str, ...] = ()
    stop_style: StopStyle = StopStyle.NATIVE
    encoder_token_ids: list[int] = field(default_factory=list)  # the prompt is then what the decoder starts with

    @property
    def input_length(self) -> int:
        """Tokens of the client's text."""
        return len(self.encoder_token_ids) or len(self.prompt_token_ids)


@final
@dataclass(frozen=True)
class TopToken:
    """An alternative at some position."""

    id: int
    text: str
    logprob: float
    special: bool


@final
@dataclass(frozen=True)
class PrefillToken:
    """A prompt token and its log-probability; the first has none."""

    id: int
    text: str
    logprob: float | None


@final
class GeneratedToken(msgspec.Struct, frozen=True):
    """One token event. `text` is what may be shown now: empty while a character, or what may be a stop string, is incomplete."""

    index: int  # from 1
    id: int
    text: str
    logprob: float | None
    special: bool
    top_tokens: list[TopToken]
    is_last: bool = False  # the result follows at once
    piece: str = ""  # what the token adds to the text, shown or not; of a special token its own text


@final
@dataclass(frozen=True)
class GenerationResult:
    """The end of a generation. `text` holds no special tokens."""

    text: str
    finish_reason: FinishReason
    num_generated_tokens: int
    seed: int | None  # None where nothing was drawn
    input_length: int  # tokens
    prefill: list[PrefillToken]
    num_cached_tokens: int
    queue_seconds: float
    inference_seconds: float
    stop: str | None = None  # the stop string that ended it


class Engine(Protocol):
    """What a generation asks of the engine."""

    def submit(self, request: SequenceRequest) -> SequenceStream:
        """Queue a sequence. Raises `UnhealthyError` if the engine was given up."""


@final
class Generator:
    """Runs sequences on an engine and turns their tokens into text."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer) -> None:
        self._engine = engine
        self._tokenizer = tokenizer

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[GeneratedToken | GenerationResult, None]:
        """Token events, then the result. Closing it, or cancelling its task, frees the sequence.

        Raises `GenerationError` if the backend failed, `IncompleteGenerationError` if the engine was closed.
        """
        began = time.perf_counter()
        assembly = _Assembly(request, self._tokenizer)
        sequence = self._engine.submit(
            SequenceRequest(
                request_id=request.request_id,
                prompt_token_ids=request.prompt_token_ids,
                sampling=request.sampling,
                seed=request.seed,
                max_new_tokens=request.max_new_tokens,
                eos_token_ids=request.eos_token_ids,
                encoder_token_ids=request.encoder_token_ids,
            )
        )
        try:
            async for output in sequence:
                assembly.note(output)
                for token in output.tokens:
                    is_last = output.finish_reason is not None and token is output.tokens[-1]
                    yield assembly.push(token, is_last)
                    if assembly.is_stopped:
                        yield assembly.result(FinishReason.STOP_SEQUENCE, time.perf_counter() - began)
                        return
                if output.error is not None:
                    raise GenerationError(output.error)
                if output.finish_reason is not None:
                    yield assembly.result(output.finish_reason, time.perf_counter() - began)
                    return
            raise IncompleteGenerationError
        finally:
            sequence.abort()


@final
class _Assembly:
    """The text of one sequence as it comes."""

    def __init__(self, request: GenerationRequest, tokenizer: Tokenizer) -> None:
        self._request = request
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer, request.prompt_token_ids)
        self._stopping = StoppingCriteria(request.stop)
        self._hides_stop = request.stop_style is StopStyle.OPENAI
        self._text = ""  # without special tokens; ends at a stop string once one was found
        self._num_shown = 0  # characters of it that were streamed
        self._num_tokens = 0
        self._prompt_logprobs: list[float | None] = []
        self._queue_seconds = 0.0
        self._num_cached_tokens = 0
        self._stop: str | None = None
        self.is_stopped = False

    def note(self, output: SequenceOutput) -> None:
        """Keep what an output says beside its tokens."""
        if output.prompt_logprobs:
            self._prompt_logprobs.extend(output.prompt_logprobs)
        self._queue_seconds = max(self._queue_seconds, output.queue_ns * _NANOSECONDS)
        self._num_cached_tokens = max(self._num_cached_tokens, output.num_cached_tokens)

    def push(self, token: TokenOutput, is_last: bool) -> GeneratedToken:
        """The event of the next token. The last one brings along whatever was held back."""
        self._num_tokens += 1
        special = token.token_id in self._tokenizer.special_ids
        if special:
            piece = shown = self._tokenizer.token_text(token.token_id)
            self.is_stopped = not is_last and self._stopping.matches_special(shown)
        else:
            piece = self._detokenizer.push(token.token_id)
            piece += self._detokenizer.flush() if is_last else ""
            shown = self._push_text(piece)
        if (is_last or self.is_stopped) and self._hides_stop:
            held = self._text[self._num_shown :]
            shown = held if special else shown + held
            self._num_shown = len(self._text)
        return GeneratedToken(
            index=self._num_tokens,
            id=token.token_id,
            text=shown,
            logprob=token.logprob,
            special=special,
            top_tokens=self._top_tokens(token),
            is_last=is_last or self.is_stopped,
            piece=piece,
        )

    def result(self, finish_reason: FinishReason, seconds: float) -> GenerationResult:
        """The end; `seconds` passed since the request was submitted."""
        request = self._request
        if not self.is_stopped:
            self._text += self._detokenizer.flush()
        return GenerationResult(
            text=self._text,
            finish_reason=finish_reason,
            num_generated_tokens=self._num_tokens,
            seed=None if request.sampling.greedy else request.seed,
            input_length=request.input_length,
            prefill=self._prefill(),
            num_cached_tokens=self._num_cached_tokens,
            queue_seconds=self._queue_seconds,
            inference_seconds=max(0.0, seconds - self._queue_seconds),
            stop=self._stop,
        )

    def _push_text(self, piece: str) -> str:
        """Take a piece of text in; the part of the text that may be shown now."""
        match = self._stopping.push(piece) if self._request.stop else None
        self._text += piece
        if match is not None:
            self.is_stopped = True
            end = len(self._text) - len(piece) + match.end
            self._stop = self._text[end - match.length : end]
            self._text = self._text[: end - match.length if self._hides_stop else end]
        if not self._hides_stop:
            return piece
        end = len(self._text) if self.is_stopped else len(self._text) - self._stopping.num_held
        shown = self._text[self._num_shown : end]
        self._num_shown = max(self._num_shown, end)
        return shown

    def _top_tokens(self, token: TokenOutput) -> list[TopToken]:
        tokenizer = self._tokenizer
        return [
            TopToken(number, tokenizer.token_text(number), logprob, number in tokenizer.special_ids)
            for number, logprob in token.top
        ]

    def _prefill(self) -> list[PrefillToken]:
        if not self._prompt_logprobs:
            return []
        ids: Sequence[int] = self._request.prompt_token_ids
        return [
            PrefillToken(number, self._tokenizer.token_text(number), logprob)
            for number, logprob in zip(ids, self._prompt_logprobs, strict=False)
        ]
