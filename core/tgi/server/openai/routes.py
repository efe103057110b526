"""The OpenAI routes of TGI: `/v1/completions`, `/v1/chat/completions` and `/chat_tokenize`.

The schemas are those of the OpenAI API reference, and the statuses are those of TGI. A stream
begins only after all its prompts have been validated, so that an invalid request is rejected with
its own status.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import final

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp

from tgi.errors import RequestError
from tgi.server.generation.concurrency import merge_when_all_begin
from tgi.server.generation.output import GeneratedToken
from tgi.server.generation.parameters import TextRequest
from tgi.server.generation.pipeline import (
    GenerationPipeline,
    HttpCall,
    best_first,
    response_headers,
    stream_headers,
)
from tgi.server.generation.protocols import CHAT, COMPLETIONS, ClientProtocol
from tgi.server.http.responses import JsonBlocks, json_response
from tgi.server.http.sse import DONE, EventStream, event
from tgi.server.openai.chat_parts import PartChunkWriter, chat_choice
from tgi.server.openai.errors import openai_error_event
from tgi.server.openai.requests import chat_request, completion_requests
from tgi.server.openai.response_bodies import (
    CHAT_CHUNK,
    COMPLETION_CHUNK,
    ChunkWriter,
    Envelope,
    TokenCounts,
    completion_choice,
)
from tgi.server.openai.response_schemas import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatTokenizeResponse,
    Completion,
)
from tgi.server.openai.schemas import ChatRequest, CompletionRequest, StreamOptions
from tgi.server.state import ServerState

__all__ = ["OpenAIRoutes"]


@final
@dataclass(frozen=True)
class _StreamedPrompt:
    """One prompt of a stream, the writer of its chunks, and the text to send before its output.
    `part_writer` writes the chunks if the output is not plain text.
    """

    request: TextRequest
    writer: ChunkWriter
    echo: str = ""
    part_writer: PartChunkWriter | None = None

    def opening(self) -> str:
        """The chunks before the output, which contain the echoed prompt."""
        if not self.echo:
            return ""
        writer, count = self.writer, self.request.num_sequences
        return "".join([event(writer.opening(i, self.echo)) for i in range(count)])


@final
@dataclass
class _StreamedResponse:
    """The state that the prompts of one stream share."""

    envelope: Envelope
    counts: TokenCounts | None  # None if the client did not request the usage
    has_failed: bool = False

    def count_reasoning(self, tokens: Sequence[GeneratedToken]) -> None:
        """Add the reasoning tokens of the sequences that end with one of these tokens."""
        if self.counts is not None:
            results = (token.result for token in tokens if token.result is not None)
            number = sum(result.num_reasoning_tokens for result in results)
            self.counts.reasoning_tokens = (self.counts.reasoning_tokens or 0) + number

    def ending(self) -> str:
        """Return the last events of the stream. The usage is sent only if no prompt has failed."""
        if self.counts is None or self.has_failed:
            return DONE
        return event(self.envelope.encode([], self.counts.usage)) + DONE


@final
class OpenAIRoutes:
    """Handlers of the OpenAI routes."""

    def __init__(self, state: ServerState, pipeline: GenerationPipeline) -> None:
        self._state = state
        self._pipeline = pipeline

    async def completions(self, http_request: HttpRequest) -> ASGIApp:
        """Handle `POST /v1/completions`."""
        call, body = await self._pipeline.read(http_request, CompletionRequest)
        return await self.response_completions(call, body)

    async def chat_completions(self, http_request: HttpRequest) -> ASGIApp:
        """Handle `POST /v1/chat/completions`."""
        call, body = await self._pipeline.read(http_request, ChatRequest)
        return await self.response_chat(call, body)

    async def chat_tokenize(self, http_request: HttpRequest) -> ASGIApp:
        """Handle `POST /chat_tokenize`. The response contains the prompt of a chat and its tokens
        with byte ranges.
        """
        _, body = await self._pipeline.read(http_request, ChatRequest)
        with self._pipeline.counted():
            prompt = (await chat_request(body, self._state)).prompt
        with self._pipeline.slot():
            blocks = await self._state.tokenizer.format_tokens(prompt, add_special_tokens=False)
        # The first `[]` is the empty list of tokens, because its field is the first of the record.
        response = await asyncio.to_thread(msgspec.json.encode, ChatTokenizeResponse([], prompt))
        head, tail = response.split(b"[]", 1)
        return JsonBlocks([head, b"[", *blocks, b"]", tail])

    async def response_completions(
        self, call: HttpCall, body: CompletionRequest, protocol: ClientProtocol = COMPLETIONS
    ) -> ASGIApp:
        """The response to a parsed body. `protocol` determines the error messages."""
        with self._pipeline.counted():
            requests = await completion_requests(body, self._state, protocol)
        envelope = self._envelope(Completion, "text_completion", "cmpl", body.model)
        has_logprobs = body.logprobs is not None and body.logprobs is not False
        num_choices = body.n or 1
        if body.stream:
            parts = [
                _StreamedPrompt(
                    request,
                    ChunkWriter(
                        envelope,
                        COMPLETION_CHUNK,
                        i * num_choices,
                        num_choices,
                        has_logprobs=has_logprobs,
                    ),
                    request.prompt if body.echo else "",
                )
                for i, request in enumerate(requests)
            ]
            return await self._stream(call, envelope, parts, body.stream_options)
        results = await self._pipeline.collect_all(call, requests)
        hides_output = bool(body.echo) and body.max_tokens == 0
        kept = [
            (request, sequence)
            for request, sequences in zip(requests, results, strict=True)
            for sequence in (sequences if body.best_of is None else best_first(sequences))[
                :num_choices
            ]
        ]
        choices = [
            completion_choice(
                i, sequence, request.prompt if body.echo else None, has_logprobs, hides_output
            )
            for i, (request, sequence) in enumerate(kept)
        ]
        counts = TokenCounts.of(results)
        if hides_output:
            counts.completion_tokens = 0
        headers = response_headers(self._state.config, requests, results)
        del headers["x-compute-time"]  # TGI does not send this header on this route.
        return json_response(envelope.encode(choices, counts.usage).encode(), headers)

    async def response_chat(
        self, call: HttpCall, body: ChatRequest, protocol: ClientProtocol = CHAT
    ) -> ASGIApp:
        """The response to a parsed body. `protocol` determines the error messages."""
        with self._pipeline.counted():
            request = await chat_request(body, self._state, protocol)
        if body.stream:
            envelope = self._envelope(
                ChatCompletionChunk, "chat.completion.chunk", "chatcmpl", body.model
            )
            num_choices, has_logprobs = request.num_sequences, bool(body.logprobs)
            writer = ChunkWriter(envelope, CHAT_CHUNK, 0, num_choices, has_logprobs=has_logprobs)
            part_writer = (
                None
                if request.output_style.is_plain
                else PartChunkWriter(envelope, has_logprobs=has_logprobs)
            )
            parts = [_StreamedPrompt(request, writer, part_writer=part_writer)]
            return await self._stream(call, envelope, parts, body.stream_options)
        envelope = self._envelope(ChatCompletion, "chat.completion", "chatcmpl", body.model)
        sequences = await self._pipeline.collect(call, request)
        choices = [
            chat_choice(i, sequence, bool(body.logprobs)) for i, sequence in enumerate(sequences)
        ]
        usage = TokenCounts.of([sequences]).usage
        headers = response_headers(self._state.config, [request], [sequences])
        return json_response(envelope.encode(choices, usage).encode(), headers)

    def _envelope(
        self, record: type[msgspec.Struct], name: str, id_prefix: str, model: str | None
    ) -> Envelope:
        return Envelope(
            id=f"{id_prefix}-{secrets.token_hex(12)}",
            record=record,
            object=name,
            created=int(time.time()),
            model=self._pipeline.model_name(model),
            system_fingerprint=self._state.config.system_fingerprint,
        )

    async def _stream(
        self,
        call: HttpCall,
        envelope: Envelope,
        parts: Sequence[_StreamedPrompt],
        options: StreamOptions | None,
    ) -> EventStream:
        has_usage = options is not None and bool(options.include_usage)
        response = _StreamedResponse(envelope, TokenCounts() if has_usage else None)
        headers = stream_headers(self._state.config, [part.request for part in parts])
        events = merge_when_all_begin([self._events(part, response) for part in parts])
        return await EventStream.open(call.receive, events, headers, ending=response.ending)

    async def _events(
        self, part: _StreamedPrompt, response: _StreamedResponse
    ) -> AsyncGenerator[str, None]:
        """Yield the chunks of one prompt. The first item has no generated text. Raises
        `RequestError` before the first item if the request is rejected.
        """
        chunk, counts, part_writer = part.writer.chunk, response.counts, part.part_writer
        has_begun = False
        try:
            async with self._pipeline.stream(part.request) as generation:
                has_begun = True
                yield part.opening()
                async for tokens in generation:
                    if counts is not None:
                        counts.completion_tokens += len(tokens)
                    if part_writer is None:
                        yield "".join([event(chunk(token)) for token in tokens])
                        continue
                    response.count_reasoning(tokens)
                    yield "".join([part_writer.events(token) for token in tokens])
                if counts is not None:
                    counts.prompt_tokens += generation.input_length
                    counts.cached_tokens += generation.num_cached_tokens
        except RequestError as error:
            if not has_begun:
                raise
            response.has_failed = True
            yield openai_error_event(error)
