"""Anthropic's routes `/v1/messages` and `/v1/messages/count_tokens`, which support text and tools.

The routes use the same chat template and generation pipeline as the other chat routes. Schemas,
events, statuses and error types are those of the Anthropic API reference.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import final

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp

from tgi.errors import RequestError
from tgi.server.anthropic.events import MessageWriter, whole_message
from tgi.server.anthropic.requests import message_prompt, message_request
from tgi.server.anthropic.response_schemas import InputTokens
from tgi.server.anthropic.schemas import CountTokensRequest, MessagesRequest
from tgi.server.generation.parameters import TextRequest
from tgi.server.generation.pipeline import GenerationPipeline, response_headers, stream_headers
from tgi.server.http.responses import json_response
from tgi.server.http.sse import EventStream
from tgi.server.state import ServerState

__all__ = ["AnthropicRoutes"]


@final
class AnthropicRoutes:
    """Handlers of Anthropic's routes."""

    def __init__(self, state: ServerState, pipeline: GenerationPipeline) -> None:
        self._state = state
        self._pipeline = pipeline

    async def messages(self, http_request: HttpRequest) -> ASGIApp:
        """Handle `POST /v1/messages`."""
        config = self._state.config
        call, body = await self._pipeline.read(http_request, MessagesRequest)
        with self._pipeline.counted():
            request = await message_request(body, self._state)
        model = self._pipeline.model_name(body.model)
        if body.stream:
            writer = MessageWriter(model, is_plain=request.output_style.is_plain)
            return await EventStream.open(
                call.receive, self._events(request, writer), stream_headers(config, [request])
            )
        [result] = sequences = await self._pipeline.collect(call, request)
        message = msgspec.json.encode(whole_message(model, result))
        return json_response(message, response_headers(config, [request], [sequences]))

    async def count_tokens(self, http_request: HttpRequest) -> ASGIApp:
        """Handle `POST /v1/messages/count_tokens`. The response contains the number of input
        tokens.
        """
        _, body = await self._pipeline.read(http_request, CountTokensRequest)
        prompt = await message_prompt(body, self._state)
        with self._pipeline.slot():
            num_tokens = await self._state.tokenizer.count(prompt, add_special_tokens=False)
        return json_response(msgspec.json.encode(InputTokens(num_tokens)))

    async def _events(
        self, request: TextRequest, writer: MessageWriter
    ) -> AsyncGenerator[str, None]:
        """Yield the events of a stream. The last event is either `message_stop` or `error`. Raises
        `RequestError` before the first event if the request is rejected.
        """
        has_begun = False
        try:
            async with self._pipeline.stream(request) as generation:
                has_begun = True
                yield writer.opening(generation.input_length)
                async for tokens in generation:
                    yield "".join([writer.token(token) for token in tokens])
        except RequestError as error:
            if not has_begun:
                raise
            yield writer.failure(error)
