"""Converts the token ids of the sequences of one prompt to text and token events.

The engine ends a sequence at its maximum length or at an EOS token. This module searches the text
for stop strings and aborts a sequence at the first match. Tokens after the match are neither shown
nor counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import msgspec

from tgi.engine.stream import OutputQueue, SequenceStream
from tgi.errors import GenerationError, IncompleteGenerationError, RequestError
from tgi.scheduler import Request, SequenceOutput
from tgi.server.generation.parameters import StopStyle, TextRequest
from tgi.server.generation.sequence_parts import SequenceParts
from tgi.server.state import Engine
from tgi.server.telemetry.metrics import RequestTimes
from tgi.text import Detokenizer, StoppingCriteria, Tokenizer
from tgi.text.output import PLAIN, OutputItem, OutputPart, TextItem, join_parts
from tgi.types import FinishReason

__all__ = ["GeneratedSequence", "GeneratedToken", "Generation", "ScoredToken"]

_NANOSECONDS = 1e-9

TopTokens = tuple[tuple[int, float], ...]


@final
@dataclass(frozen=True)
class ScoredToken:
    """A token of the prompt, or one of the most likely tokens at an output position, with its log
    probability. `logprob` is None for the first token of a prompt.
    """

    id: int
    text: str
    logprob: float | None
    special: bool
    data: bytes = b""  # the token's own bytes, on the `/v1` routes only


@final
class GeneratedToken(msgspec.Struct, frozen=True):
    """One token event. `text` is the text that can be shown now. This text may be empty, because an
    incomplete character and text that may become a stop string are held back.
    """

    sequence: int  # index among the sequences of the prompt
    index: int  # position in the output of the sequence; the first token has index 1
    id: int
    text: str
    logprob: float | None
    special: bool
    piece: str  # the text that the token adds, even if held back; for a special token, its name
    top_tokens: Sequence[ScoredToken] = ()
    result: GeneratedSequence | None = None  # the complete sequence, if this is its last token
    data: bytes = b""  # the token's own bytes, if the `/v1` request has log probabilities
    parts: Sequence[OutputPart] = ()  # the parts that are known now, if the output is not plain

    @property
    def plain_text(self) -> str:
        """The text for a response without special tokens. Text that was held back is included in
        the event of the last token, even if that token is special.
        """
        return "" if self.special and self.result is None else self.text


@final
class GeneratedSequence:
    """One sequence and the text that was generated for it. A complete sequence is the `result` of
    its last token event.
    """

    def __init__(
        self,
        index: int,
        text_request: TextRequest,
        request: Request,
        tokenizer: Tokenizer,
        validation_seconds: float,
    ) -> None:
        """`index` is the position of the sequence among the sequences of the prompt.
        `validation_seconds` is the time from the start of the handler to this call.
        """
        self.stop: str | None = None  # the stop string that ended the sequence
        # Number of tokens of the client's prompt. In an encoder-decoder model the encoder reads it.
        self.input_length = len(request.encoder_token_ids) or len(request.prompt_token_ids)
        self.num_generated_tokens = 0
        self.num_cached_tokens = 0  # number of prompt tokens found in the prefix cache
        self.tokens: list[GeneratedToken] = []  # empty if the response is streamed
        self._finish_reason: FinishReason | None = None
        self._index = index
        self._request = request
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer, request.prompt_token_ids)
        parameters = text_request.parameters
        self._wants_prompt = parameters.decoder_input_details
        self._stop = parameters.stop
        self._stopping = StoppingCriteria(parameters.stop) if parameters.stop else None
        style = text_request.output_style
        # None if the whole output is final text.
        self.parts = None if style is PLAIN or style.is_plain else SequenceParts(style)
        # OpenAI's log probabilities contain bytes and a limited number of alternatives.
        self._has_bytes = text_request.sampling.logprobs == "raw"
        self._max_top = (parameters.top_n_tokens or 0) if self._has_bytes else None
        self._hides_stop = text_request.stop_style is StopStyle.OPENAI
        # Text without special tokens and without the text after a stop string.
        self._pieces: list[str] = []
        self._held = ""  # text that follows the pieces and may become a stop string
        self._prompt_logprobs: list[float | None] = []
        self._prompt_top: list[TopTokens] = []  # one entry per entry of `_prompt_logprobs`
        self._began = time.perf_counter()
        self._validation_seconds = validation_seconds
        self._queue_seconds = 0.0
        self._inference_seconds = 0.0

    @property
    def finish_reason(self) -> FinishReason:
        """The reason why the sequence ended. Raises AssertionError before the end."""
        assert self._finish_reason is not None, "the sequence has not ended"
        return self._finish_reason

    @property
    def text(self) -> str:
        """The text, without special tokens."""
        return "".join(self._pieces)

    @property
    def items(self) -> list[OutputItem]:
        """The reasoning, the texts and the tool calls, in the order of their generation."""
        return [TextItem(self.text)] if self.parts is None else join_parts(self.parts.all)

    @property
    def has_calls(self) -> bool:
        """Whether the output contains a complete tool call."""
        return self.parts is not None and self.parts.num_complete_calls > 0

    @property
    def num_reasoning_tokens(self) -> int:
        """Number of tokens of the reasoning."""
        return 0 if self.parts is None else self.parts.num_reasoning_tokens

    @property
    def seed(self) -> int | None:
        """The random seed of the sequence, or None if it was decoded greedily."""
        return None if self._request.sampling.greedy else self._request.seed

    @property
    def times(self) -> RequestTimes:
        """Durations of the complete sequence."""
        return RequestTimes(
            validation=self._validation_seconds,
            queue=self._queue_seconds,
            inference=self._inference_seconds,
            num_generated_tokens=self.num_generated_tokens,
        )

    @property
    def mean_logprob(self) -> float:
        """The mean log probability of `tokens`, or 0 if `tokens` have no log probabilities.
        `best_of` returns the sequence with the highest mean.
        """
        logprobs = [token.logprob for token in self.tokens if token.logprob is not None]
        return sum(logprobs) / len(logprobs) if logprobs else 0.0

    @property
    def prefill(self) -> list[ScoredToken]:
        """The tokens of the prompt with their log probabilities, or an empty list if the log
        probabilities were not requested. For an encoder-decoder model, they are the first token of
        the decoder, which has no log probability.
        """
        if self._request.encoder_token_ids and self._wants_prompt:
            return [self._scored(token_id, None) for token_id in self._request.prompt_token_ids]
        pairs = zip(self._request.prompt_token_ids, self._prompt_logprobs, strict=False)
        return [self._scored(token_id, logprob) for token_id, logprob in pairs]

    @property
    def prefill_top(self) -> list[list[ScoredToken]]:
        """The most likely tokens at each position of `prefill`. The list of a position is empty if
        the position has no log probability or the backend returns no top tokens of prompts.
        """
        return [[self._scored(*pair) for pair in top[: self._max_top]] for top in self._prompt_top]

    def note(self, output: SequenceOutput) -> None:
        """Record prompt log probabilities, the queue time and the number of cached tokens."""
        if output.prompt_logprobs:
            self._prompt_logprobs.extend(output.prompt_logprobs)
            self._prompt_top.extend(output.prompt_top or [()] * len(output.prompt_logprobs))
        if not self.num_generated_tokens:
            self._queue_seconds = output.queue_ns * _NANOSECONDS
            self.num_cached_tokens = output.num_cached_tokens

    def push(
        self, token_id: int, logprob: float | None, top: TopTokens, finish: FinishReason | None
    ) -> GeneratedToken:
        """Add the next token and return its event. With `finish` the token is the last one, and its
        event also contains the text that was held back.
        """
        self.num_generated_tokens += 1
        tokenizer = self._tokenizer
        if finish is FinishReason.LENGTH and token_id in self._request.eos_token_ids:
            # In OpenAI's API, an EOS token ends the text even if it is the last allowed token.
            finish = FinishReason.EOS_TOKEN if self._hides_stop else finish
        special = token_id in tokenizer.special_ids
        released = ""  # text before the token that was held back
        if special:
            piece = shown = tokenizer.token_text(token_id)
            if self.parts is not None and (finish is not None or self.parts.is_marker(piece)):
                released = self._release_held()
            if finish is None and self._stopping and self._stopping.matches_special(piece):
                finish = FinishReason.STOP_SEQUENCE
        else:
            piece = self._detokenizer.push(token_id)
            if finish is not None:
                piece += self._detokenizer.flush()
            shown = self._add(piece)
        if self.stop is not None:
            finish = FinishReason.STOP_SEQUENCE
        if finish is not None:
            if self._hides_stop:
                shown = self._held if special else shown + self._held
                self._pieces.append(self._held)
            self._finish(finish)
        return GeneratedToken(
            sequence=self._index,
            index=self.num_generated_tokens,
            id=token_id,
            text=shown,
            logprob=logprob,
            special=special,
            piece=piece,
            top_tokens=[self._scored(*pair) for pair in top[: self._max_top]] if top else (),
            result=None if finish is None else self,
            data=self._own_bytes(token_id, piece) if self._has_bytes else b"",
            parts=()
            if self.parts is None
            else self.parts.push(released if special else shown, piece if special else "", finish),
        )

    def _add(self, piece: str) -> str:
        """Add a piece of text. Returns the text that may be shown now."""
        if self._stopping is None:
            self._pieces.append(piece)
            return piece
        match = self._stopping.push(piece)
        if match is not None:
            self.stop = match.stop
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

    def _release_held(self) -> str:
        """Return the text that was held back before a marker of the output format. A stop string
        does not contain a marker.
        """
        text = self._add(self._detokenizer.flush())
        if self._stopping is not None and self.stop is None:
            text += self._held
            self._pieces.append(self._held)
            self._held, self._stopping = "", StoppingCriteria(self._stop)
        return text

    def _finish(self, finish_reason: FinishReason) -> None:
        self._finish_reason = finish_reason
        seconds = time.perf_counter() - self._began
        self._inference_seconds = max(0.0, seconds - self._queue_seconds)
        if finish_reason is not FinishReason.STOP_SEQUENCE:
            # If the last token is special, the detokenizer may still contain incomplete text.
            self._pieces.append(self._detokenizer.flush())

    def _scored(self, token_id: int, logprob: float | None) -> ScoredToken:
        tokenizer = self._tokenizer
        special, text = token_id in tokenizer.special_ids, tokenizer.token_text(token_id)
        data = self._own_bytes(token_id, text) if self._has_bytes else b""
        return ScoredToken(token_id, text, logprob, special, data)

    def _own_bytes(self, token_id: int, text: str) -> bytes:
        data = self._tokenizer.spelling.of(token_id)
        return text.encode() if data is None else data


@final
class Generation:
    """The running sequences of one prompt, as an async iterator. Each item is a nonempty list of
    the token events that are available at that time.

    The iterator ends when all sequences have ended. A caller that stops the iteration earlier must
    call `close`. Only one task may iterate.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        text_request: TextRequest,
        requests: Sequence[Request],
        on_result: Callable[[GeneratedSequence], None],
        *,
        validation_seconds: float = 0.0,
    ) -> None:
        """Submit the requests to the engine. `on_result` is called with each sequence that
        completes. Raises `UnhealthyError` if the engine can no longer be restarted.
        """
        self._on_result = on_result
        self._outputs = OutputQueue()
        self._failure: RequestError | None = None
        # Invariant: contains the sequences that have not ended, by the engine's sequence id.
        self._sequences: dict[int, tuple[SequenceStream, GeneratedSequence]] = {}
        sequences = [
            GeneratedSequence(index, text_request, request, tokenizer, validation_seconds)
            for index, request in enumerate(requests)
        ]
        self.input_length = sequences[0].input_length
        self._first = sequences[0]
        try:
            for request, sequence in zip(requests, sequences, strict=True):
                stream = engine.submit(request, self._outputs)
                self._sequences[stream.sequence_id] = (stream, sequence)
        except RequestError:
            self.close()
            raise

    @property
    def num_cached_tokens(self) -> int:
        """Number of prompt tokens in the prefix cache. It is known after the first token."""
        return self._first.num_cached_tokens

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> list[GeneratedToken]:
        """Wait for token events and return all that are available.

        Raises `GenerationError` if the backend failed, and `IncompleteGenerationError` if the
        engine was closed or the last output of a sequence has no token. If the server ends before
        the sequences, the error is `UnhealthyError`. Events that precede the failure are returned
        first.
        """
        tokens: list[GeneratedToken] = []
        while not tokens:
            if self._failure is not None:
                raise self._failure
            if not self._sequences:
                raise StopAsyncIteration
            outputs = await self._outputs.get()
            if not outputs:
                raise self._outputs.failure or IncompleteGenerationError
            for output in outputs:
                self._read(output, tokens)
        return tokens

    def close(self) -> None:
        """Abort the sequences that have not ended."""
        for stream, _ in self._sequences.values():
            stream.abort()
        self._sequences.clear()

    def _read(self, output: SequenceOutput, tokens: list[GeneratedToken]) -> None:
        """Append the events of an output to `tokens`. Output after the end of a sequence, or after
        a failure, is ignored.
        """
        entry = self._sequences.get(output.sequence_id)
        if entry is None or self._failure is not None:
            return
        stream, sequence = entry
        sequence.note(output)
        logprobs, top, num_left = output.logprobs, output.top, len(output.token_ids)
        for place, token_id in enumerate(output.token_ids):
            num_left -= 1
            token = sequence.push(
                token_id,
                logprobs[place] if logprobs else None,
                top[place] if top else (),
                None if num_left else output.finish_reason,
            )
            tokens.append(token)
            if token.result is not None:
                stream.abort()
                del self._sequences[output.sequence_id]
                self._on_result(token.result)
                return
        if output.error is not None:
            self._failure = GenerationError(output.error)
        elif output.finish_reason is not None:
            self._failure = IncompleteGenerationError()
