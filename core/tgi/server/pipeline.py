"""One prompt from count to count: permits, admission, tokens, metrics. All generation routes go through here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import NamedTuple, final

from tgi.errors import (
    GenerationError,
    IncompleteGenerationError,
    OverloadedError,
    RequestError,
    TemplateError,
    UnhealthyError,
)
from tgi.server.admission import Admission, AdmittedPrompt, GenerationInput
from tgi.server.concurrency import merge, run_all
from tgi.server.generation import GeneratedToken, GenerationRequest, GenerationResult, Generator
from tgi.server.metrics import Failure, Metrics, RequestTimes
from tgi.server.permits import Permits
from tgi.server.state import ServerState
from tgi.server.tracing import record_failure, record_generation

__all__ = [
    "Admitted",
    "CompletedGeneration",
    "CompletedPrompt",
    "GenerationPipeline",
    "OpenStream",
    "StreamItem",
    "count_failures",
]

_FAILURES: dict[type[RequestError], Failure] = {
    OverloadedError: Failure.OVERLOADED,
    TemplateError: Failure.TEMPLATE,
    GenerationError: Failure.GENERATION,
    UnhealthyError: Failure.GENERATION,
    IncompleteGenerationError: Failure.INCOMPLETE,
}


@contextmanager
def count_failures(metrics: Metrics) -> Iterator[None]:
    """Count whatever ends the block but success; a cancelled or closed block is one whose client has left."""
    try:
        yield
    except RequestError as error:
        failure = _FAILURES.get(type(error), Failure.VALIDATION)
        metrics.count_failure(failure)
        record_failure(failure)
        raise
    except (asyncio.CancelledError, GeneratorExit):
        metrics.count_failure(Failure.DROPPED)
        record_failure(Failure.DROPPED)
        raise


class Admitted(NamedTuple):
    """First item of a stream: the request is valid and has its permits."""

    input_length: int  # tokens of the prompt


@final
@dataclass(frozen=True)
class OpenStream:
    """A stream whose request was admitted."""

    input_length: int  # tokens of the prompt
    items: AsyncGenerator[Admitted | StreamItem, None]  # to be closed by whoever has it


class StreamItem(NamedTuple):
    """A token of one of the prompt's sequences; the last one comes with the sequence's result."""

    sequence: int
    token: GeneratedToken
    result: GenerationResult | None


@final
@dataclass(frozen=True)
class CompletedGeneration:
    """A result and the durations it took."""

    result: GenerationResult
    tokens: list[GeneratedToken]
    times: RequestTimes

    @property
    def mean_logprob(self) -> float:
        """How likely its tokens are; the measure of `best_of`."""
        logprobs = [token.logprob for token in self.tokens if token.logprob is not None]
        return sum(logprobs) / len(logprobs) if logprobs else 0.0


@final
@dataclass(frozen=True)
class CompletedPrompt:
    """Everything that was generated for one prompt."""

    given: GenerationInput
    sequences: list[CompletedGeneration]  # in the order of their seeds

    @property
    def best_first(self) -> list[CompletedGeneration]:
        """The sequences, the most likely one first; equally likely ones keep their order."""
        return sorted(self.sequences, key=lambda sequence: -sequence.mean_logprob)


@final
class GenerationPipeline:
    """Runs generations against the permits of one server."""

    def __init__(self, state: ServerState, permits: Permits) -> None:
        self._metrics = state.metrics
        self._permits = permits
        self._admission = Admission(state)
        self._generator = Generator(state.engine, state.tokenizer.tokenizer)

    async def collect(self, given: GenerationInput, received: float) -> CompletedPrompt:
        """All sequences of a prompt, whole. Raises `RequestError`; cancellation frees the sequences.

        `received` is the `time.perf_counter()` at which the handler began.
        """
        self._metrics.count_request()
        self._admission.check_best_of(given.parameters)
        with count_failures(self._metrics), self._permits.hold(given.num_sequences):
            admitted = await self._admission.admit(given, received)
            works = [self._collect_sequence(request, admitted) for request in admitted.requests]
            return CompletedPrompt(given, await run_all(works))

    async def collect_all(self, inputs: Sequence[GenerationInput], received: float) -> list[CompletedPrompt]:
        """Several prompts at once, in their order; one that fails fails all."""
        return await run_all([self.collect(given, received) for given in inputs])

    async def stream(self, given: GenerationInput) -> AsyncGenerator[Admitted | StreamItem, None]:
        """The tokens of a prompt's sequences as they come, after one `Admitted`. Raises `RequestError`; closing it frees the
        sequences. Permits are held from the first item asked for until the end.
        """
        self._metrics.count_request()
        received = time.perf_counter()
        with count_failures(self._metrics):
            self._admission.check_stream(given.parameters)
            with self._permits.hold(given.num_sequences):
                admitted = await self._admission.admit(given, received)
                yield Admitted(admitted.input_length)
                streams = [self._stream_sequence(index, admitted) for index in range(len(admitted.requests))]
                async with aclosing(merge(streams) if len(streams) > 1 else streams[0]) as items:
                    async for item in items:
                        yield item

    async def open_stream(self, given: GenerationInput) -> OpenStream:
        """A stream of which only the tokens are still to come. Raises what refuses the request."""
        items = self.stream(given)
        admitted = await anext(items)
        if not isinstance(admitted, Admitted):
            raise AssertionError("a stream begins with its admission")
        return OpenStream(admitted.input_length, items)

    async def _collect_sequence(self, request: GenerationRequest, admitted: AdmittedPrompt) -> CompletedGeneration:
        tokens: list[GeneratedToken] = []
        async with aclosing(self._generator.stream(request)) as items:
            async for item in items:
                if isinstance(item, GeneratedToken):
                    tokens.append(item)
                else:
                    return CompletedGeneration(item, tokens, self._finish(admitted, item))
        raise IncompleteGenerationError

    async def _stream_sequence(self, index: int, admitted: AdmittedPrompt) -> AsyncGenerator[StreamItem, None]:
        last: GeneratedToken | None = None
        async with aclosing(self._generator.stream(admitted.requests[index])) as items:
            async for item in items:
                if isinstance(item, GenerationResult):
                    if last is None:
                        break
                    self._finish(admitted, item)
                    yield StreamItem(index, last, item)
                    return
                if item.is_last:
                    last = item
                else:
                    yield StreamItem(index, item, None)
        raise IncompleteGenerationError("Incomplete generation stream")

    def _finish(self, admitted: AdmittedPrompt, result: GenerationResult) -> RequestTimes:
        times = RequestTimes(
            validation=admitted.validation_seconds,
            queue=result.queue_seconds,
            inference=result.inference_seconds,
            num_generated_tokens=result.num_generated_tokens,
        )
        self._metrics.observe_success(times)
        record_generation(times, result.seed)
        return times
