"""The OpenAI routes that TGI has: `/v1/completions`, `/v1/chat/completions`, and `/chat_tokenize`.

Shapes follow the OpenAI API reference; error bodies and statuses are TGI's.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import final

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from tgi.errors import RequestError
from tgi.server.generation.admission import GenerationInput
from tgi.server.generation.compute_headers import response_headers, stream_headers
from tgi.server.generation.concurrency import merge
from tgi.server.generation.pipeline import GenerationPipeline, count_failures
from tgi.server.http.disconnect import run_until_disconnect
from tgi.server.http.json_format import format_json
from tgi.server.http.responses import json_response
from tgi.server.http.routing import read_record
from tgi.server.http.sse import DONE, EventStream, event
from tgi.server.openai.requests import chat_input, completion_inputs
from tgi.server.openai.response_bodies import (
    CHAT_CHUNK,
    COMPLETION_CHUNK,
    ChunkWriter,
    Envelope,
    Usage,
    chat_choice,
    completion_choice,
)
from tgi.server.openai.schemas import ChatRequest, CompletionRequest, StreamOptions
from tgi.server.state import ServerState

__all__ = ["OpenAIRoutes"]

_STREAM_ERROR_STATUS = 422  # whatever the error: TGI's streams say no other


@final
@dataclass(frozen=True)
class _StreamedPrompt:
    """One prompt of a stream, and how its chunks are written."""

    given: GenerationInput
    writer: ChunkWriter
    echo: str = ""


@final
@dataclass
class _StreamedResponse:
    """What the prompts of one stream share."""

    envelope: Envelope
    usage: Usage | None  # None where it was not asked for
    has_failed: bool = False

    def ending(self) -> str:
        """The usage of an answer that is whole, then the end."""
        if self.usage is None or self.has_failed:
            return DONE
        return event(self.envelope.encode([], self.usage.to_json())) + DONE


@final
class OpenAIRoutes:
    """Handlers of the OpenAI routes."""

    def __init__(self, state: ServerState, pipeline: GenerationPipeline) -> None:
        self._state = state
        self._pipeline = pipeline

    async def completions(self, request: Request) -> ASGIApp:
        """`POST /v1/completions`."""
        received = time.perf_counter()
        body = await read_record(request, CompletionRequest, self._state.config.payload_limit)
        return await self.response_completions(request, body, received)

    async def chat_completions(self, request: Request) -> ASGIApp:
        """`POST /v1/chat/completions`."""
        received = time.perf_counter()
        body = await read_record(request, ChatRequest, self._state.config.payload_limit)
        return await self.response_chat(request, body, received)

    async def chat_tokenize(self, request: Request) -> ASGIApp:
        """`POST /chat_tokenize`: the prompt of a chat and its tokens with their byte ranges."""
        body = await read_record(request, ChatRequest, self._state.config.payload_limit)
        self._state.metrics.count_request()
        with count_failures(self._state.metrics):
            given = await chat_input(body, self._state)
        tokens = await self._state.tokenizer.tokenize(given.prompt, add_special_tokens=False)
        items = [{"id": t.id, "text": t.text, "start": t.start, "stop": t.stop} for t in tokens]
        return json_response(
            msgspec.json.encode({"tokenize_response": items, "templated_text": given.prompt})
        )

    async def response_completions(
        self, request: Request, body: CompletionRequest, received: float
    ) -> ASGIApp:
        """The answer to a body already read; the handler began at `received`
        (`time.perf_counter()`).
        """
        self._state.metrics.count_request()
        with count_failures(self._state.metrics):
            inputs = completion_inputs(body, self._state)
        envelope = self._envelope("cmpl", "text_completion", body.model)
        has_logprobs = body.logprobs is not None and body.logprobs is not False
        num_choices = body.n or 1
        if body.stream:
            parts = [
                _StreamedPrompt(
                    given,
                    ChunkWriter(
                        envelope, COMPLETION_CHUNK, i * num_choices, has_logprobs=has_logprobs
                    ),
                    given.prompt if body.echo else "",
                )
                for i, given in enumerate(inputs)
            ]
            return self._stream(envelope, parts, body.stream_options)
        prompts = await run_until_disconnect(
            request.receive, self._pipeline.collect_all(inputs, received)
        )
        hides_output = bool(body.echo) and body.max_tokens == 0
        kept = [
            (prompt.given, sequence)
            for prompt in prompts
            for sequence in (prompt.sequences if body.best_of is None else prompt.best_first)[
                :num_choices
            ]
        ]
        choices = [
            completion_choice(
                i, sequence, given.prompt if body.echo else None, has_logprobs, hides_output
            )
            for i, (given, sequence) in enumerate(kept)
        ]
        usage = Usage.of(prompts)
        if hides_output:
            usage.completion_tokens = 0
        headers = response_headers(self._state.config, prompts)
        del headers["x-compute-time"]  # the one header that TGI leaves out on this route
        return json_response(envelope.encode(choices, usage.to_json()).encode(), headers)

    async def response_chat(self, request: Request, body: ChatRequest, received: float) -> ASGIApp:
        """The answer to a body already read; the handler began at `received`
        (`time.perf_counter()`).
        """
        self._state.metrics.count_request()
        with count_failures(self._state.metrics):
            given = await chat_input(body, self._state)
        if body.stream:
            envelope = self._envelope("chatcmpl", "chat.completion.chunk", body.model)
            writer = ChunkWriter(envelope, CHAT_CHUNK, 0, has_logprobs=bool(body.logprobs))
            return self._stream(envelope, [_StreamedPrompt(given, writer)], body.stream_options)
        envelope = self._envelope("chatcmpl", "chat.completion", body.model)
        prompt = await run_until_disconnect(
            request.receive, self._pipeline.collect(given, received)
        )
        choices = [
            chat_choice(i, sequence, bool(body.logprobs))
            for i, sequence in enumerate(prompt.sequences)
        ]
        usage = Usage.of([prompt]).to_json()
        return json_response(
            envelope.encode(choices, usage).encode(), response_headers(self._state.config, [prompt])
        )

    def _envelope(self, id_prefix: str, kind: str, model: str | None) -> Envelope:
        config = self._state.config
        return Envelope(
            id=f"{id_prefix}-{secrets.token_hex(12)}",
            kind=kind,
            created=int(time.time()),
            model=config.model_id if model in (None, "tgi") else str(model),
            system_fingerprint=config.system_fingerprint,
        )

    def _stream(
        self, envelope: Envelope, parts: Sequence[_StreamedPrompt], options: StreamOptions | None
    ) -> EventStream:
        has_usage = options is not None and bool(options.include_usage)
        response = _StreamedResponse(envelope, Usage() if has_usage else None)
        headers = stream_headers(self._state.config, [part.given for part in parts])
        events = merge([self._events(part, response) for part in parts])
        return EventStream(events, headers, ending=response.ending)

    async def _events(
        self, part: _StreamedPrompt, response: _StreamedResponse
    ) -> AsyncGenerator[str, None]:
        """The chunks of one prompt as they come."""
        chunk, usage = part.writer.chunk, response.usage
        try:
            async with self._pipeline.stream(part.given) as generation:
                if usage is not None:
                    usage.prompt_tokens += generation.input_length
                if part.echo:
                    yield "".join(
                        [
                            event(part.writer.opening(i, part.echo))
                            for i in range(part.given.num_sequences)
                        ]
                    )
                async for tokens in generation:
                    if usage is not None:
                        usage.completion_tokens += len(tokens)
                    yield "".join([event(chunk(token)) for token in tokens])
        except RequestError as error:
            response.has_failed = True
            yield event(
                format_json(
                    {"error": {"message": error.text, "http_status_code": _STREAM_ERROR_STATUS}}
                )
            )
