"""One generation from count to count: permit, admission, tokens, metrics. All generation routes go through here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
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
from tgi.server.admission import Admission, AdmittedRequest, GenerationInput
from tgi.server.generation import GeneratedToken, GenerationResult, Generator
from tgi.server.json_format import format_plain
from tgi.server.metrics import Failure, Metrics, RequestTimes
from tgi.server.permits import Permits
from tgi.server.state import ServerConfig, ServerState

__all__ = ["CompletedGeneration", "GenerationPipeline", "StreamItem", "count_failures", "stream_headers"]

StreamItem = tuple[GeneratedToken, GenerationResult | None]

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
        metrics.count_failure(_FAILURES.get(type(error), Failure.VALIDATION))
        raise
    except (asyncio.CancelledError, GeneratorExit):
        metrics.count_failure(Failure.DROPPED)
        raise


@final
@dataclass(frozen=True)
class CompletedGeneration:
    """A result and the durations it took."""

    result: GenerationResult
    tokens: list[GeneratedToken]
    times: RequestTimes

    def headers(self, config: ServerConfig, prompt: str) -> dict[str, str]:
        """What TGI tells in the head of an answer that is not a stream. Times are whole milliseconds but the first, in s."""
        times = self.times
        return {
            "x-compute-type": config.compute_type,
            "x-compute-time": format_plain(times.total),
            "x-compute-characters": str(len(prompt)),
            "x-total-time": _milliseconds(times.total),
            "x-validation-time": _milliseconds(times.validation),
            "x-queue-time": _milliseconds(times.queue),
            "x-inference-time": _milliseconds(times.inference),
            "x-time-per-token": _milliseconds(times.per_token),
            "x-prompt-tokens": str(self.result.input_length),
            "x-generated-tokens": str(self.result.num_generated_tokens),
        }


def stream_headers(config: ServerConfig, prompt: str) -> dict[str, str]:
    """The same for a stream, which knows less when it begins."""
    return {"x-compute-type": config.compute_type, "x-compute-characters": str(len(prompt))}


@final
class GenerationPipeline:
    """Runs generations against the permits of one server."""

    def __init__(self, state: ServerState, permits: Permits) -> None:
        self._metrics = state.metrics
        self._permits = permits
        self._admission = Admission(state)
        self._generator = Generator(state.engine, state.tokenizer.tokenizer)

    async def collect(self, given: GenerationInput, received: float) -> CompletedGeneration:
        """The whole generation. Raises `RequestError`; cancellation frees the sequence."""
        self._metrics.count_request()
        self._admission.check_best_of(given.parameters)
        with count_failures(self._metrics), self._permits.hold():
            admitted = await self._admission.admit(given, received)
            tokens: list[GeneratedToken] = []
            async with aclosing(self._generator.stream(admitted.request)) as items:
                async for item in items:
                    if isinstance(item, GeneratedToken):
                        tokens.append(item)
                    else:
                        return CompletedGeneration(item, tokens, self._finish(admitted, item))
            raise IncompleteGenerationError

    async def stream(self, given: GenerationInput) -> AsyncGenerator[StreamItem, None]:
        """The tokens, the last one with the result. Raises `RequestError`; closing it frees the sequence. The permit is held
        from the first item asked for until the end.
        """
        self._metrics.count_request()
        received = time.perf_counter()
        with count_failures(self._metrics):
            self._admission.check_stream(given.parameters)
            with self._permits.hold():
                admitted = await self._admission.admit(given, received)
                last: GeneratedToken | None = None
                async with aclosing(self._generator.stream(admitted.request)) as items:
                    async for item in items:
                        if isinstance(item, GenerationResult):
                            if last is None:
                                break
                            self._finish(admitted, item)
                            yield last, item
                            return
                        if item.is_last:
                            last = item
                        else:
                            yield item, None
                raise IncompleteGenerationError("Incomplete generation stream")

    def _finish(self, admitted: AdmittedRequest, result: GenerationResult) -> RequestTimes:
        times = RequestTimes(
            validation=admitted.validation_seconds,
            queue=result.queue_seconds,
            inference=result.inference_seconds,
            num_generated_tokens=result.num_generated_tokens,
        )
        self._metrics.observe_success(times)
        return times


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
