"""The steps that all generation routes have in common: reading the body, concurrency slots,
admission, generation, metrics and response headers.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
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
    ValidationError,
)
from tgi.scheduler import Request
from tgi.server.generation.concurrency import run_all
from tgi.server.generation.declined_tools import DecliningGeneration, TokenStream
from tgi.server.generation.guidance import GuidanceCompiler
from tgi.server.generation.output import GeneratedSequence, GeneratedToken, Generation
from tgi.server.generation.parameters import TextRequest
from tgi.server.generation.slots import ConcurrencyLimiter
from tgi.server.generation.validation import (
    BEST_OF_RULES,
    GUIDANCE_RULES,
    PARAMETER_RULES,
    STREAM_RULES,
    TOKEN_RULES,
    Candidate,
    RuleSet,
    check,
    length_error,
)
from tgi.server.http.json_format import format_plain
from tgi.server.http.routing import current_client, read_record, read_variant, run_until_disconnect
from tgi.server.state import ServerConfig, ServerState
from tgi.server.telemetry.metrics import Failure
from tgi.server.telemetry.tracing import current_span, record_failure, record_generation
from tgi.types import Guidance

__all__ = [
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
    """The HTTP side of one request."""

    received: float  # start of the handler, from `time.perf_counter()`, in seconds
    receive: Receive  # reports the disconnect of the client


@final
class Admission:
    """Validates requests, tokenizes them and chooses their seeds."""

    def __init__(self, state: ServerState) -> None:
        self._config = state.config
        self._engine = state.engine
        self._pool = state.tokenizer
        self._metrics = state.metrics
        self._guidance = GuidanceCompiler(state.engine, state.vocabulary)

    def check(self, rules: RuleSet, request: TextRequest) -> None:
        """Apply rules that need no tokens. Raises `ValidationError` for the first violated rule."""
        check(rules, self._candidate(request))

    async def admit(self, request: TextRequest) -> list[Request]:
        """Validate and tokenize a request. Returns one `Request` for each sequence. These requests
        differ only in id and seed.

        Raises `ValidationError` for the first violated rule.
        """
        candidate = self._candidate(request)
        check(PARAMETER_RULES, candidate)
        token_ids = await self._token_ids(request)
        sampling = candidate.sampling
        candidate = self._candidate(request, tuple(token_ids))
        check(TOKEN_RULES, candidate)
        self._metrics.observe_valid_request(len(token_ids), candidate.max_new_tokens)
        guidance = await self._guidance_of(candidate) if request.is_guided else None
        parameters, start = request.parameters, self._config.decoder_start_token_id
        eos_token_ids = () if parameters.ignore_eos else self._pool.tokenizer.eos_token_ids
        first_seed, *other_seeds = request.seeds()
        first = Request(
            request_id=secrets.token_hex(8),
            prompt_token_ids=token_ids if start is None else [start],
            encoder_token_ids=[] if start is None else token_ids,
            sampling=sampling,
            seed=first_seed,
            max_new_tokens=candidate.max_new_tokens,
            eos_token_ids=eos_token_ids,
            cache_salt=parameters.cache_salt or "",
            guidance=guidance,
        )
        if not other_seeds:
            return [first]
        return [
            msgspec.structs.replace(first, request_id=f"{first.request_id}-{index}", seed=seed)
            for index, seed in enumerate([first_seed, *other_seeds])
        ]

    async def _guidance_of(self, candidate: Candidate) -> Guidance | None:
        request = candidate.request
        try:
            check(GUIDANCE_RULES, candidate)
            if request.is_constraint_optional and (
                self._config.disable_grammar_support or not candidate.has_masks
            ):
                request = replace(request, constraint=None)
            return await self._guidance.guidance(request)
        except ValidationError:
            self._metrics.count_rejected_grammar()
            raise

    def _candidate(self, request: TextRequest, token_ids: tuple[int, ...] = ()) -> Candidate:
        return Candidate(request, self._config, self._engine.agreement, token_ids)

    async def _token_ids(self, request: TextRequest) -> list[int]:
        if request.prompt_token_ids is not None:
            return list(request.prompt_token_ids)
        truncate, limit = request.parameters.truncate, self._config.max_input_tokens
        if truncate is None and len(request.prompt) > self._pool.tokenizer.max_text_length(limit):
            text = request.protocol.prompt_too_long
            raise length_error(self._candidate(request), text, f"more than {limit}")
        return (await self._pool.encode(request.prompt, request.add_special_tokens, truncate)).ids


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
        """Read the body of a request as `record`. Raises `RejectionError` if it is invalid."""
        call = HttpCall(time.perf_counter(), http_request.receive)
        return call, await read_record(http_request, record, self._config.payload_limit)

    async def read_variant(
        self, http_request: HttpRequest, records: Sequence[type[BodyT]], name: str
    ) -> tuple[HttpCall, BodyT]:
        """Read the body as the first of `records` that matches. Raises `RejectionError` if none
        does. `name` is the name of the enum of these records in TGI. The name appears in the error
        message.
        """
        call = HttpCall(time.perf_counter(), http_request.receive)
        body = await read_variant(http_request, records, name, self._config.payload_limit)
        return call, body

    def model_name(self, requested: str | None) -> str:
        """The model name in a response: the requested name, or the model id if the client requested
        none or `tgi`.
        """
        return self._config.model_id if requested in (None, "tgi") else str(requested)

    def slot(self) -> AbstractContextManager[None]:
        """Hold a concurrency slot for work that is not a generation. Entering the block raises
        `OverloadedError` if no slot is free.
        """
        return self._limiter.hold(current_client.get())

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a request in the metrics, and a failure if the block raises."""
        self._metrics.count_request()
        with self._count_failures():
            yield

    async def collect(self, call: HttpCall, request: TextRequest) -> list[GeneratedSequence]:
        """Generate all sequences of a prompt. Returns them in the order of their indices.

        Raises `RequestError`, or `DisconnectError` if the client disconnects. In both cases the
        sequences are aborted.
        """
        return await run_until_disconnect(call.receive, self._collect(call, request))

    async def collect_all(
        self, call: HttpCall, requests: Sequence[TextRequest]
    ) -> list[list[GeneratedSequence]]:
        """Generate the sequences of several prompts. Returns one list per prompt, in the order of
        `requests`. If one prompt fails, all are aborted. Raises the same errors as `collect`.
        """
        works = run_all([self._collect(call, request) for request in requests])
        return await run_until_disconnect(call.receive, works)

    @asynccontextmanager
    async def stream(self, request: TextRequest) -> AsyncIterator[TokenStream]:
        """Start the generation for a prompt. The generated tokens can be read inside the block.
        Entering the block raises `RequestError` if the request is rejected. When the block ends,
        the concurrency slots are released and unfinished sequences are aborted.
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
    async def _open(self, request: TextRequest, received: float) -> AsyncIterator[TokenStream]:
        with self._limiter.hold(current_client.get(), request.num_sequences):
            first = await self._begin(request, received)
            stream: TokenStream = first
            if request.without_tools is not None:
                second = partial(self._begin_without_tools, request.without_tools)
                stream = DecliningGeneration(first, second)
            with closing(stream):
                yield stream

    async def _begin(self, request: TextRequest, received: float) -> Generation:
        """Submit the sequences of a request to the engine."""
        admitted = await self._admission.admit(request)
        seconds = time.perf_counter() - received
        return Generation(
            self._engine,
            self._tokenizer,
            request,
            admitted,
            self._note_success,
            validation_seconds=seconds,
        )

    async def _begin_without_tools(
        self, without_tools: Callable[[], Awaitable[TextRequest]]
    ) -> Generation:
        received = time.perf_counter()
        return await self._begin(await without_tools(), received)

    def _note_success(self, sequence: GeneratedSequence) -> None:
        if sequence.parts is not None and sequence.parts.has_declined:
            return  # The second output is counted.
        times = sequence.times
        self._metrics.observe_success(times)
        if (span := current_span.get()) is not None:
            record_generation(span, times, sequence.seed)

    @contextmanager
    def _count_failures(self) -> Iterator[None]:
        """Count the failure that ends the block. If the block is cancelled or closed, the client
        has disconnected.
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
    """Sort the sequences by descending mean log probability. Equal sequences keep their order."""
    return sorted(sequences, key=lambda sequence: -sequence.mean_logprob)


def response_headers(
    config: ServerConfig,
    requests: Sequence[TextRequest],
    results: Sequence[Sequence[GeneratedSequence]],
) -> dict[str, str]:
    """TGI's headers for a response that is not streamed. `results` contains the sequences of each
    request.

    `x-compute-time` is in seconds. The other times are in whole milliseconds. The times of a prompt
    are those of its slowest sequence. As in TGI, the values of all prompts are added up.
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
    """TGI's headers for a stream. They are sent before the first token."""
    num_characters = sum(len(request.prompt) for request in requests)
    return {"x-compute-type": config.compute_type, "x-compute-characters": str(num_characters)}


def _with_tokens(tokens: list[GeneratedToken]) -> GeneratedSequence:
    """Return the sequence that these tokens belong to, with its `tokens` set."""
    last = tokens[-1]
    sequence = last.result
    if sequence is None:
        raise AssertionError("a generation ended before one of its sequences")
    # The copy of the last token has no reference to the sequence, which avoids a reference cycle.
    sequence.tokens = [*tokens[:-1], msgspec.structs.replace(last, result=None)]
    return sequence


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
