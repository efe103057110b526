"""One request of a generation route from its body to its results: concurrency slots, admission,
tokens, metrics and response headers. All generation routes go through here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from typing import TypeVar, final

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.types import Receive

from tgi.errors import (
    GenerationError,
    IncompleteGenerationError,
    OverloadedError,
    RequestError,
    TemplateError,
    UnhealthyError,
)
from tgi.server.generation.concurrency import run_all
from tgi.server.generation.output import GeneratedSequence, GeneratedToken, Generation
from tgi.server.generation.parameters import TextRequest
from tgi.server.generation.validation import BEST_OF_RULES, STREAM_RULES, Admission
from tgi.server.http.json_format import format_plain
from tgi.server.http.routing import read_record, read_variant, run_until_disconnect
from tgi.server.state import ServerConfig, ServerState
from tgi.server.telemetry.metrics import Failure
from tgi.server.telemetry.tracing import record_failure, record_generation

__all__ = [
    "ConcurrencyLimiter",
    "GenerationPipeline",
    "HttpCall",
    "best_first",
    "response_headers",
    "stream_headers",
]

BodyT = TypeVar("BodyT")

_FAILURES: dict[type[RequestError], Failure] = {
    OverloadedError: Failure.OVERLOADED,
    TemplateError: Failure.TEMPLATE,
    GenerationError: Failure.GENERATION,
    UnhealthyError: Failure.GENERATION,
    IncompleteGenerationError: Failure.INCOMPLETE,
}


@final
@dataclass(frozen=True)
class HttpCall:
    """The HTTP side of one request: when its handler began (`time.perf_counter()`), and how the
    server notices that the client has left.
    """

    received: float
    receive: Receive


@final
class ConcurrencyLimiter:
    """A semaphore that never waits: a request that finds no free slot is rejected. It belongs to
    one event loop.
    """

    def __init__(self, num_permits: int) -> None:
        self._num_free = num_permits

    @property
    def num_free(self) -> int:
        """Number of free concurrency slots."""
        return self._num_free

    @contextmanager
    def hold(self, count: int = 1) -> Iterator[None]:
        """Hold `count` slots, all or none. Raises `OverloadedError` if fewer are free."""
        if self._num_free < count:
            raise OverloadedError
        self._num_free -= count
        try:
            yield
        finally:
            self._num_free += count


@final
class GenerationPipeline:
    """Runs generations within the concurrency limit of one server."""

    def __init__(self, state: ServerState, limiter: ConcurrencyLimiter) -> None:
        self._config = state.config
        self._engine = state.engine
        self._tokenizer = state.tokenizer.tokenizer
        self._metrics = state.metrics
        self._limiter = limiter
        self._admission = Admission(state)

    async def read(self, http_request: HttpRequest, record: type[BodyT]) -> tuple[HttpCall, BodyT]:
        """Read the body of a request as `record`. Raises `RejectionError`."""
        call = HttpCall(time.perf_counter(), http_request.receive)
        return call, await read_record(http_request, record, self._config.payload_limit)

    async def read_variant(
        self, http_request: HttpRequest, records: Sequence[type[BodyT]], name: str
    ) -> tuple[HttpCall, BodyT]:
        """Read the body as the first of `records` that it fits. Raises `RejectionError`; `name` is
        TGI's name of the choice.
        """
        call = HttpCall(time.perf_counter(), http_request.receive)
        body = await read_variant(http_request, records, name, self._config.payload_limit)
        return call, body

    def model_name(self, requested: str | None) -> str:
        """The model name in a response: the one that the client sent, unless it sent none."""
        return self._config.model_id if requested in (None, "tgi") else str(requested)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a request, and its failure if the block raises."""
        self._metrics.count_request()
        with self._count_failures():
            yield

    async def collect(self, call: HttpCall, request: TextRequest) -> list[GeneratedSequence]:
        """All sequences of a prompt, complete and in the order of their seeds. Raises
        `RequestError`, and `DisconnectError` if the client leaves; both abort the sequences.
        """
        return await run_until_disconnect(call.receive, self._collect(call, request))

    async def collect_all(
        self, call: HttpCall, requests: Sequence[TextRequest]
    ) -> list[list[GeneratedSequence]]:
        """The sequences of several prompts, in their order. If one prompt fails, all fail."""
        works = run_all([self._collect(call, request) for request in requests])
        return await run_until_disconnect(call.receive, works)

    @asynccontextmanager
    async def stream(self, request: TextRequest) -> AsyncIterator[Generation]:
        """The tokens of a prompt's sequences as they come. Entering raises `RequestError` if the
        request is rejected. Concurrency slots and sequences are held until the block is left.
        """
        received = time.perf_counter()
        with self.counted():
            self._admission.check(STREAM_RULES, request)
            try:
                async with self._open(request, received) as generation:
                    yield generation
            except IncompleteGenerationError:
                raise IncompleteGenerationError("Incomplete generation stream") from None

    async def _collect(self, call: HttpCall, request: TextRequest) -> list[GeneratedSequence]:
        self._metrics.count_request()
        self._admission.check(BEST_OF_RULES, request)
        tokens: list[list[GeneratedToken]] = [[] for _ in range(request.num_sequences)]
        with self._count_failures():
            async with self._open(request, call.received) as generation:
                async for ready in generation:
                    for token in ready:
                        tokens[token.sequence].append(token)
        return [_with_tokens(sequence_tokens) for sequence_tokens in tokens]

    @asynccontextmanager
    async def _open(self, request: TextRequest, received: float) -> AsyncIterator[Generation]:
        with self._limiter.hold(request.num_sequences):
            admitted = await self._admission.admit(request)
            seconds = time.perf_counter() - received
            with closing(
                Generation(
                    self._engine,
                    self._tokenizer,
                    request,
                    admitted,
                    self._note_success,
                    validation_seconds=seconds,
                )
            ) as generation:
                yield generation

    def _note_success(self, sequence: GeneratedSequence) -> None:
        times = sequence.times
        self._metrics.observe_success(times)
        record_generation(times, sequence.seed)

    @contextmanager
    def _count_failures(self) -> Iterator[None]:
        """Count the failure that ends the block. A cancelled or closed block is one whose client
        has left.
        """
        try:
            yield
        except RequestError as error:
            self._count_failure(_FAILURES.get(type(error), Failure.VALIDATION))
            raise
        except (asyncio.CancelledError, GeneratorExit):
            self._count_failure(Failure.DROPPED)
            raise

    def _count_failure(self, failure: Failure) -> None:
        self._metrics.count_failure(failure)
        record_failure(failure)


def best_first(sequences: Sequence[GeneratedSequence]) -> list[GeneratedSequence]:
    """The sequences by descending likelihood. Equally likely ones keep their order."""
    return sorted(sequences, key=lambda sequence: -sequence.mean_logprob)


def response_headers(
    config: ServerConfig,
    requests: Sequence[TextRequest],
    results: Sequence[Sequence[GeneratedSequence]],
) -> dict[str, str]:
    """TGI's headers of a response that is not streamed. `results` has the sequences of each
    request.

    Times are whole milliseconds, but `x-compute-time` is in seconds. The slowest sequence of a
    prompt counts; values of several prompts are summed, as in TGI.
    """
    times = [
        max(sequences, key=lambda sequence: sequence.times.total).times for sequences in results
    ]
    num_generated_tokens = sum(
        sequence.num_generated_tokens for sequences in results for sequence in sequences
    )
    return {
        "x-compute-type": config.compute_type,
        "x-compute-time": format_plain(sum(t.total for t in times)),
        "x-compute-characters": str(sum(len(request.prompt) for request in requests)),
        "x-total-time": _milliseconds(sum(t.total for t in times)),
        "x-validation-time": _milliseconds(sum(t.validation for t in times)),
        "x-queue-time": _milliseconds(sum(t.queue for t in times)),
        "x-inference-time": _milliseconds(sum(t.inference for t in times)),
        "x-time-per-token": _milliseconds(sum(t.per_token for t in times)),
        "x-prompt-tokens": str(sum(sequences[0].input_length for sequences in results)),
        "x-generated-tokens": str(num_generated_tokens),
    }


def stream_headers(config: ServerConfig, requests: Sequence[TextRequest]) -> dict[str, str]:
    """TGI's headers of a stream, which are sent before it has a result."""
    num_characters = sum(len(request.prompt) for request in requests)
    return {"x-compute-type": config.compute_type, "x-compute-characters": str(num_characters)}


def _with_tokens(tokens: list[GeneratedToken]) -> GeneratedSequence:
    """The complete sequence of these tokens, with its `tokens` filled in."""
    last = tokens[-1]
    sequence = last.result
    if sequence is None:
        raise AssertionError("a generation ended before one of its sequences")
    # The last token drops its reference to the sequence, so that the two form no cycle.
    sequence.tokens = [*tokens[:-1], msgspec.structs.replace(last, result=None)]
    return sequence


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
