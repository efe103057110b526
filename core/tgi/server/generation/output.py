"""The sequences of one prompt from engine to text: token events, the last of each sequence with its
result.

The engine ends a sequence on length and on EOS; stop strings are found here, in the text, and end
it by an abort. Surplus tokens are neither shown nor counted.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, final

import msgspec

from tgi.engine.stream import OutputQueue, SequenceRequest, SequenceStream
from tgi.errors import GenerationError, IncompleteGenerationError, RequestError
from tgi.scheduler import SequenceOutput, TokenOutput
from tgi.text import Detokenizer, StoppingCriteria, Tokenizer
from tgi.types import FinishReason

__all__ = [
    "GeneratedToken",
    "Generation",
    "GenerationRequest",
    "GenerationResult",
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
    """A validated request for one sequence: what the engine has to do, and where its text stops."""

    sequence: SequenceRequest
    stop: tuple[str, ...] = ()
    stop_style: StopStyle = StopStyle.NATIVE

    @property
    def input_length(self) -> int:
        """Tokens of the client's text."""
        return len(self.sequence.encoder_token_ids) or len(self.sequence.prompt_token_ids)


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


@final
class GeneratedToken(msgspec.Struct, frozen=True):
    """One token event. `text` is what may be shown now: empty while a character, or what may be a
    stop string, is incomplete.
    """

    sequence: int  # place among the prompt's sequences
    index: int  # from 1
    id: int
    text: str
    logprob: float | None
    special: bool
    piece: str  # what the token adds to the text, shown or not; of a special token its own text
    top_tokens: Sequence[TopToken] = ()
    result: GenerationResult | None = None  # of the sequence that ends with this token

    @property
    def plain_text(self) -> str:
        """The text where special tokens are none; the last one still brings along what was held
        back.
        """
        return "" if self.special and self.result is None else self.text


class Engine(Protocol):
    """What a generation asks of the engine."""

    def submit(self, request: SequenceRequest, outputs: OutputQueue) -> SequenceStream:
        """Queue a sequence whose outputs go to `outputs`. Raises `UnhealthyError` if the engine was
        given up.
        """


@final
class Generation:
    """The sequences of one prompt at work: an async iterator over the token events that are ready
    together, at least one.

    It ends after the last result. Whoever leaves it earlier has to close it. It has one consumer.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        requests: Sequence[GenerationRequest],
        on_result: Callable[[GenerationResult], None],
    ) -> None:
        """Hand the sequences to the engine; `on_result` hears of each one that ends well. Raises
        what `Engine.submit` raises.
        """
        self.input_length = requests[0].input_length
        self._on_result = on_result
        self._outputs = OutputQueue()
        self._failure: RequestError | None = None
        # Invariant: by the engine's ids, the sequences that have not ended.
        self._sequences: dict[int, tuple[SequenceStream, _SequenceText]] = {}
        try:
            for index, request in enumerate(requests):
                stream = engine.submit(request.sequence, self._outputs)
                self._sequences[stream.sequence_id] = (
                    stream,
                    _SequenceText(index, request, tokenizer),
                )
        except RequestError:
            self.close()
            raise

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> list[GeneratedToken]:
        """What came since the last call. Raises `GenerationError` if the backend failed,
        `IncompleteGenerationError` if the engine was closed; the tokens that came before are given
        out first.
        """
        tokens: list[GeneratedToken] = []
        while not tokens:
            if self._failure is not None:
                raise self._failure
            if not self._sequences:
                raise StopAsyncIteration
            outputs = await self._outputs.get()
            if not outputs:
                raise IncompleteGenerationError
            for output in outputs:
                self._read(output, tokens)
        return tokens

    def close(self) -> None:
        """Free the sequences that have not ended."""
        for stream, _ in self._sequences.values():
            stream.abort()
        self._sequences.clear()

    def _read(self, output: SequenceOutput, tokens: list[GeneratedToken]) -> None:
        """Add the events of an output to `tokens`. What comes after a sequence's end, or after a
        failure, is surplus.
        """
        entry = self._sequences.get(output.sequence_id)
        if entry is None or self._failure is not None:
            return
        stream, text = entry
        text.note(output)
        num_left = len(output.tokens)
        for token in output.tokens:
            num_left -= 1
            event = text.push(token, None if num_left else output.finish_reason)
            tokens.append(event)
            if event.result is not None:
                stream.abort()
                del self._sequences[output.sequence_id]
                self._on_result(event.result)
                return
        if output.error is not None:
            self._failure = GenerationError(output.error)
        elif output.finish_reason is not None:
            self._failure = IncompleteGenerationError()


@final
class _SequenceText:
    """The text of one sequence as it comes."""

    def __init__(self, index: int, request: GenerationRequest, tokenizer: Tokenizer) -> None:
        self._index = index
        self._request = request
        self._tokenizer = tokenizer
        self._began = time.perf_counter()
        self._detokenizer = Detokenizer(tokenizer, request.sequence.prompt_token_ids)
        self._stopping = StoppingCriteria(request.stop)
        self._hides_stop = request.stop_style is StopStyle.OPENAI
        self._pieces: list[
            str
        ] = []  # of the result: no special tokens, nothing after a stop string
        self._held = ""  # text after them that may turn out to be a stop string
        self._stop: str | None = None  # the stop string that was found
        self._num_tokens = 0
        self._prompt_logprobs: list[float | None] = []
        self._queue_seconds = 0.0
        self._num_cached_tokens = 0

    def note(self, output: SequenceOutput) -> None:
        """Keep what an output says beside its tokens."""
        if output.prompt_logprobs:
            self._prompt_logprobs.extend(output.prompt_logprobs)
        if not self._num_tokens:
            self._queue_seconds = output.queue_ns * _NANOSECONDS
            self._num_cached_tokens = output.num_cached_tokens

    def push(self, token: TokenOutput, finish: FinishReason | None) -> GeneratedToken:
        """The event of the next token; with `finish` it is the last one, which brings along
        whatever was held back.
        """
        self._num_tokens += 1
        tokenizer = self._tokenizer
        special = token.token_id in tokenizer.special_ids
        if special:
            piece = shown = tokenizer.token_text(token.token_id)
            if finish is None and self._stopping.matches_special(piece):
                finish = FinishReason.STOP_SEQUENCE
        else:
            piece = self._detokenizer.push(token.token_id)
            if finish is not None:
                piece += self._detokenizer.flush()
            shown = self._add(piece)
            if self._stop is not None:
                finish = FinishReason.STOP_SEQUENCE
        if finish is not None and self._hides_stop:
            shown = self._held if special else shown + self._held
            self._pieces.append(self._held)
        return GeneratedToken(
            sequence=self._index,
            index=self._num_tokens,
            id=token.token_id,
            text=shown,
            logprob=token.logprob,
            special=special,
            piece=piece,
            top_tokens=self._top_tokens(token) if token.top else (),
            result=None if finish is None else self._result(finish),
        )

    def _add(self, piece: str) -> str:
        """Take a piece of text in; the part of the text that may be shown now."""
        if not self._request.stop:
            self._pieces.append(piece)
            return piece
        match = self._stopping.push(piece)
        if match is not None:
            self._stop = match.stop
        if not self._hides_stop:
            self._pieces.append(piece if match is None else piece[: match.end])
            return piece
        waiting = self._held + piece
        if match is None:
            end = len(waiting) - self._stopping.num_held
            self._held = waiting[end:]
        else:
            end = len(self._held) + match.end - len(match.stop)
            self._held = ""
        self._pieces.append(waiting[:end])
        return waiting[:end]

    def _result(self, finish_reason: FinishReason) -> GenerationResult:
        request, seconds = self._request, time.perf_counter() - self._began
        # A last special token leaves the detokenizer with what came before it.
        rest = "" if finish_reason is FinishReason.STOP_SEQUENCE else self._detokenizer.flush()
        return GenerationResult(
            text="".join(self._pieces) + rest,
            finish_reason=finish_reason,
            num_generated_tokens=self._num_tokens,
            seed=None if request.sequence.sampling.greedy else request.sequence.seed,
            input_length=request.input_length,
            prefill=self._prefill(),
            num_cached_tokens=self._num_cached_tokens,
            queue_seconds=self._queue_seconds,
            inference_seconds=max(0.0, seconds - self._queue_seconds),
            stop=self._stop,
        )

    def _top_tokens(self, token: TokenOutput) -> list[TopToken]:
        tokenizer = self._tokenizer
        return [
            TopToken(number, tokenizer.token_text(number), logprob, number in tokenizer.special_ids)
            for number, logprob in token.top
        ]

    def _prefill(self) -> list[PrefillToken]:
        if not self._prompt_logprobs:
            return []
        ids: Sequence[int] = self._request.sequence.prompt_token_ids
        return [
            PrefillToken(number, self._tokenizer.token_text(number), logprob)
            for number, logprob in zip(ids, self._prompt_logprobs, strict=False)
        ]
