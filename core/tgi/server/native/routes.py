"""TGI's native routes: `POST /`, `/generate`, `/generate_stream` and `/tokenize`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import final

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp

from tgi.errors import IncompleteGenerationError, RequestError
from tgi.server.generation.parameters import GenerateParameters, StopStyle, TextRequest
from tgi.server.generation.pipeline import (
    GenerationPipeline,
    HttpCall,
    best_first,
    response_headers,
    stream_headers,
)
from tgi.server.http.json_format import format_json
from tgi.server.http.responses import ErrorResponse, JsonBlocks, error_body, json_response
from tgi.server.http.sse import EventStream, event
from tgi.server.native.response_bodies import details, format_stream_response
from tgi.server.native.response_schemas import GenerateResponse
from tgi.server.native.schemas import CompatGenerateRequest, GenerateRequest
from tgi.server.state import ServerState

__all__ = ["NativeRoutes", "native_request"]


@final
class NativeRoutes:
    """Handlers of the native routes."""

    def __init__(self, state: ServerState, pipeline: GenerationPipeline) -> None:
        self._state = state
        self._pipeline = pipeline

    async def generate(self, http_request: HttpRequest) -> ASGIApp:
        """Handle `POST /generate`."""
        call, body = await self._pipeline.read(http_request, GenerateRequest)
        return await self._response(call, body, full_text=bool(body.parameters.return_full_text))

    async def generate_stream(self, http_request: HttpRequest) -> ASGIApp:
        """Handle `POST /generate_stream`."""
        _, body = await self._pipeline.read(http_request, GenerateRequest)
        return self._stream(body.inputs, body.parameters, bool(body.parameters.return_full_text))

    async def generate_compatible(self, http_request: HttpRequest) -> ASGIApp:
        """Handle `POST /`. The response is a JSON array, or the same stream as that of
        `/generate_stream`.
        """
        call, body = await self._pipeline.read(http_request, CompatGenerateRequest)
        return await self.response_compatible(call, body)

    async def response_compatible(self, call: HttpCall, body: CompatGenerateRequest) -> ASGIApp:
        """The response of `POST /` to a parsed body."""
        requested = body.parameters.return_full_text
        full_text = self._state.config.returns_full_text if requested is None else requested
        if body.stream:
            return self._stream(body.inputs, body.parameters, full_text)
        return await self._response(call, body, full_text=full_text, in_array=True)

    async def tokenize(self, http_request: HttpRequest) -> ASGIApp:
        """Handle `POST /tokenize`. The response contains the tokens of `inputs` with their byte
        ranges.
        """
        _, body = await self._pipeline.read(http_request, GenerateRequest)
        with self._pipeline.slot():
            blocks = await self._state.tokenizer.format_tokens(body.inputs)
            return JsonBlocks([b"[", *blocks, b"]"])

    async def _response(
        self,
        call: HttpCall,
        body: GenerateRequest | CompatGenerateRequest,
        *,
        full_text: bool,
        in_array: bool = False,
    ) -> Response:
        parameters = body.parameters
        request = native_request(body.inputs, parameters)
        best, *others = best_first(await self._pipeline.collect(call, request))
        text_prefix = request.prompt if full_text else ""
        response = GenerateResponse(text_prefix + best.text)
        if parameters.details or parameters.decoder_input_details:
            response.details = details(best, others, parameters, text_prefix)
        content = msgspec.json.encode([response] if in_array else response)
        headers = response_headers(self._state.config, [request], [[best]])
        return json_response(content, headers)

    def _stream(self, prompt: str, parameters: GenerateParameters, full_text: bool) -> EventStream:
        request = TextRequest(prompt, parameters, StopStyle.NATIVE)
        return EventStream(
            self._events(request, prompt if full_text else ""),
            stream_headers(self._state.config, [request]),
        )

    async def _events(self, request: TextRequest, text_prefix: str) -> AsyncGenerator[str, None]:
        parameters = request.parameters
        try:
            async with self._pipeline.stream(request) as generation:
                async for tokens in generation:
                    yield "".join(
                        [
                            event(format_stream_response(token, parameters, text_prefix))
                            for token in tokens
                        ]
                    )
        except IncompleteGenerationError as error:
            yield event(format_json(ErrorResponse(error.text, "incomplete_generation_stream")))
        except RequestError as error:
            yield event(error_body(error).decode())


def native_request(prompt: str, parameters: GenerateParameters) -> TextRequest:
    """Create the request for a native body. The response must not be streamed."""
    return TextRequest(
        prompt, parameters, StopStyle.NATIVE, num_sequences=max(1, parameters.best_of or 1)
    )
