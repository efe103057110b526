"""OpenAI's route `/v1/responses`, which supports text and function calls. Responses are not stored.

The route uses the same chat template and generation pipeline as the other chat routes. The schemas
are those of the OpenAI API reference. A stream begins only after the request has been validated, so
that an invalid request is rejected with its own status.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import final

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp

from tgi.errors import RequestError
from tgi.server.generation.parameters import TextRequest
from tgi.server.generation.pipeline import GenerationPipeline, response_headers, stream_headers
from tgi.server.http.responses import json_response
from tgi.server.http.sse import EventStream
from tgi.server.openai.responses_api_input import response_request
from tgi.server.openai.responses_api_schemas import ResponsesRequest
from tgi.server.openai.responses_api_writer import ResponseBuilder, ResponseWriter
from tgi.server.state import ServerState

__all__ = ["ResponsesRoutes"]


@final
class ResponsesRoutes:
    """Handler of `/v1/responses`."""

    def __init__(self, state: ServerState, pipeline: GenerationPipeline) -> None:
        self._state = state
        self._pipeline = pipeline

    async def create(self, http_request: HttpRequest) -> ASGIApp:
        """Handle `POST /v1/responses`."""
        config = self._state.config
        call, body = await self._pipeline.read(http_request, ResponsesRequest)
        with self._pipeline.counted():
            request = await response_request(body, self._state)
        builder = ResponseBuilder(body, self._pipeline.model_name(body.model))
        is_plain = request.output_style.is_plain
        if body.stream:
            writer = ResponseWriter(builder, is_plain=is_plain, has_events=True)
            return await EventStream.open(
                call.receive, self._events(request, writer), stream_headers(config, [request])
            )
        sequences = await self._pipeline.collect(call, request)
        [result] = sequences
        writer = ResponseWriter(builder, is_plain=is_plain, has_events=False)
        response = msgspec.json.encode(writer.whole(result))
        return json_response(response, response_headers(config, [request], [sequences]))

    async def _events(
        self, request: TextRequest, writer: ResponseWriter
    ) -> AsyncGenerator[str, None]:
        """Yield the events of a stream. The last event is one of `response.completed`,
        `response.incomplete` and `response.failed`. Raises `RequestError` before the first event if
        the request is rejected.
        """
        try:
            async with self._pipeline.stream(request) as generation:
                yield writer.opening()
                async for tokens in generation:
                    yield "".join([writer.token(token) for token in tokens])
        except RequestError as error:
            if not writer.has_begun:
                raise
            yield writer.failure(error)
