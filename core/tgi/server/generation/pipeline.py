"""One prompt from count to count: permits, admission, tokens, metrics. All generation routes go
through here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from typing import final

from tgi.errors import (
    GenerationError,
    IncompleteGenerationError,
    OverloadedError,
    RequestError,
    TemplateError,
    UnhealthyError,
)
from tgi.server.generation.admission import Admission, AdmittedPrompt, GenerationInput
from tgi.server.generation.concurrency import run_all
from tgi.server.generation.concurrency_limiter import ConcurrencyLimiter
from tgi.server.generation.output import GeneratedToken, Generation, GenerationResult
from tgi.server.state import ServerState
from tgi.server.telemetry.metrics import Failure, Metrics, RequestTimes
from tgi.server.telemetry.tracing import record_failure, record_generation

__all__ = ["CompletedGeneration", "CompletedPrompt", "GenerationPipeline", "count_failures"]

_FAILURES: dict[type[RequestError], Failure] = {
    OverloadedError: Failure.OVERLOADED,
    TemplateError: Failure.TEMPLATE,
    GenerationError: Failure.GENERATION,
    UnhealthyError: Failure.GENERATION,
    IncompleteGenerationError: Failure.INCOMPLETE,
}


@contextmanager
def count_failures(metrics: Metrics) -> Iterator[None]:
    """Count whatever ends the block but success; a cancelled or closed block is one whose client
    has left.
    """
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


@final
@dataclass(frozen=True)
class CompletedGeneration:
    """A result and the durations it took."""

    tokens: list[GeneratedToken]
    result: GenerationResult
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

    def __init__(self, state: ServerState, limiter: ConcurrencyLimiter) -> None:
        self._engine = state.engine
        self._tokenizer = state.tokenizer.tokenizer
        self._metrics = state.metrics
        self._limiter = limiter
        self._admission = Admission(state)

    async def collect(self, given: GenerationInput, received: float) -> CompletedPrompt:
        """All sequences of a prompt, whole. Raises `RequestError`; cancellation frees the
        sequences.

        `received` is the `time.perf_counter()` at which the handler began.
        """
        self._metrics.count_request()
        self._admission.check_best_of(given.parameters)
        tokens: list[list[GeneratedToken]] = [[] for _ in range(given.num_sequences)]
        with count_failures(self._metrics):
            async with self._open(given, received) as (generation, admitted):
                async for ready in generation:
                    for token in ready:
                        tokens[token.sequence].append(token)
        return CompletedPrompt(given, [_completed(sequence, admitted) for sequence in tokens])

    async def collect_all(
        self, inputs: Sequence[GenerationInput], received: float
    ) -> list[CompletedPrompt]:
        """Several prompts at once, in their order; one that fails fails all."""
        return await run_all([self.collect(given, received) for given in inputs])

    @asynccontextmanager
    async def stream(self, given: GenerationInput) -> AsyncIterator[Generation]:
        """The tokens of a prompt's sequences as they come. Entering raises `RequestError` where the
        request is refused; permits and sequences are held until it is left.
        """
        received = time.perf_counter()
        self._metrics.count_request()
        with count_failures(self._metrics):
            self._admission.check_stream(given.parameters)
            try:
                async with self._open(given, received) as (generation, _):
                    yield generation
            except IncompleteGenerationError:
                raise IncompleteGenerationError("Incomplete generation stream") from None

    @asynccontextmanager
    async def _open(
        self, given: GenerationInput, received: float
    ) -> AsyncIterator[tuple[Generation, AdmittedPrompt]]:
        with self._limiter.hold(given.num_sequences):
            admitted = await self._admission.admit(given, received)

            def note_success(result: GenerationResult) -> None:
                times = _times(result, admitted)
                self._metrics.observe_success(times)
                record_generation(times, result.seed)

            with closing(
                Generation(self._engine, self._tokenizer, admitted.requests, note_success)
            ) as generation:
                yield generation, admitted


def _completed(tokens: list[GeneratedToken], admitted: AdmittedPrompt) -> CompletedGeneration:
    result = tokens[-1].result
    if result is None:
        raise AssertionError("a sequence that ended has a result")
    return CompletedGeneration(tokens, result, _times(result, admitted))


def _times(result: GenerationResult, admitted: AdmittedPrompt) -> RequestTimes:
    return RequestTimes(
        validation=admitted.validation_seconds,
        queue=result.queue_seconds,
        inference=result.inference_seconds,
        num_generated_tokens=result.num_generated_tokens,
    )
