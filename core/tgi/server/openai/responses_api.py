"""OpenAI's route `/v1/responses`, which supports text only. Responses are not stored.

The route uses the same chat template and generation pipeline as the other chat routes. The schemas
are those of the OpenAI API reference. A stream begins only after the request has been validated, so
that an invalid request is rejected with its own status.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import final

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp

from tgi.errors import RequestError
from tgi.server.generation.output import GeneratedSequence, GeneratedToken
from tgi.server.generation.parameters import TextRequest
from tgi.server.generation.pipeline import GenerationPipeline, response_headers, stream_headers
from tgi.server.http.json_format import format_json
from tgi.server.http.responses import json_response
from tgi.server.http.sse import EventStream, named_event
from tgi.server.openai.logprobs import token_logprobs
from tgi.server.openai.response_schemas import ChatLogprob
from tgi.server.openai.responses_api_input import response_request
from tgi.server.openai.responses_api_output import (
    ContentPart,
    ContentPartEvent,
    IncompleteDetails,
    InputTokensDetails,
    OutputItem,
    OutputItemEvent,
    OutputTokensDetails,
    Reasoning,
    Response,
    ResponseError,
    ResponseEvent,
    ResponseStatus,
    ResponseText,
    ResponseUsage,
    TextDeltaEvent,
    TextDoneEvent,
    TextFormat,
)
from tgi.server.openai.responses_api_schemas import ResponsesRequest
from tgi.server.state import ServerState
from tgi.types import FinishReason

__all__ = ["ResponsesRoutes"]


@final
@dataclass(frozen=True)
class _ResponseBuilder:
    """Builds the response object. All events of one response share its ids and its model."""

    body: ResponsesRequest
    model: str
    response_id: str = field(default_factory=lambda: f"resp_{secrets.token_hex(24)}")
    item_id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(24)}")
    created_at: int = field(default_factory=lambda: int(time.time()))

    def response(self, status: ResponseStatus) -> Response:
        """The response object with this status, without output, error and usage."""
        body = self.body
        return Response(
            id=self.response_id,
            object="response",
            created_at=self.created_at,
            status=status,
            background=False,
            error=None,
            incomplete_details=None,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            metadata=body.metadata or {},
            model=self.model,
            output=[],
            parallel_tool_calls=True,
            previous_response_id=None,
            reasoning=Reasoning(effort=None, summary=None),
            store=False,
            temperature=1.0 if body.temperature is None else body.temperature,
            text=ResponseText(TextFormat("text")),
            tool_choice="auto",
            tools=[],
            top_logprobs=body.top_logprobs or 0,
            top_p=1.0 if body.top_p is None else body.top_p,
            truncation="disabled",
            usage=None,
        )

    def logprobs(self, tokens: Sequence[GeneratedToken]) -> list[ChatLogprob]:
        """The log probabilities of these tokens, if the client requested them."""
        return token_logprobs(tokens) if self.body.has_logprobs else []

    def finished(self, result: GeneratedSequence, logprobs: list[ChatLogprob]) -> Response:
        """The response object after the end of the generation."""
        is_cut = result.finish_reason is FinishReason.LENGTH
        response = self.response("incomplete" if is_cut else "completed")
        response.incomplete_details = IncompleteDetails("max_output_tokens") if is_cut else None
        response.output = [self.item(response.status, result.text, logprobs)]
        response.usage = ResponseUsage(
            input_tokens=result.input_length,
            input_tokens_details=InputTokensDetails(result.num_cached_tokens),
            output_tokens=result.num_generated_tokens,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
            total_tokens=result.input_length + result.num_generated_tokens,
        )
        return response

    def failed(self, error: RequestError) -> Response:
        """The response object after an error."""
        response = self.response("failed")
        response.error = ResponseError("server_error", error.text)
        return response

    def item(
        self, status: ResponseStatus, text: str | None = None, logprobs: Sequence[ChatLogprob] = ()
    ) -> OutputItem:
        """The message of the response. Its content is empty if `text` is None."""
        content = [] if text is None else [_part(text, logprobs)]
        return OutputItem(self.item_id, "message", status, "assistant", content)


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
        builder = _ResponseBuilder(body, self._pipeline.model_name(body.model))
        if body.stream:
            return await EventStream.open(
                call.receive, self._events(request, builder), stream_headers(config, [request])
            )
        sequences = await self._pipeline.collect(call, request)
        [result] = sequences
        response = msgspec.json.encode(builder.finished(result, builder.logprobs(result.tokens)))
        return json_response(response, response_headers(config, [request], [sequences]))

    async def _events(
        self, request: TextRequest, builder: _ResponseBuilder
    ) -> AsyncGenerator[str, None]:
        """Yield the events of a stream. The last event is one of `response.completed`,
        `response.incomplete` and `response.failed`. Raises `RequestError` before the first event if
        the request is rejected.
        """
        writer = _EventWriter(builder)
        try:
            async with self._pipeline.stream(request) as generation:
                yield writer.opening()
                async for tokens in generation:
                    yield "".join([writer.token(token) for token in tokens])
        except RequestError as error:
            if not writer.has_begun:
                raise
            yield writer.failure(error)


def _part(text: str, logprobs: Sequence[ChatLogprob] = ()) -> ContentPart:
    return ContentPart("output_text", text, annotations=[], logprobs=list(logprobs))


@final
class _EventWriter:
    """Writes and numbers the events of one response."""

    def __init__(self, builder: _ResponseBuilder) -> None:
        self._builder = builder
        self._place = {"item_id": builder.item_id, "output_index": 0, "content_index": 0}
        self._next_number = 0
        # log probabilities of the tokens so far, if requested
        self._logprobs: list[ChatLogprob] = []

    @property
    def has_begun(self) -> bool:
        """Whether an event has been written."""
        return self._next_number > 0

    def opening(self) -> str:
        """The events before the first token."""
        begun, item = self._builder.response("in_progress"), self._builder.item("in_progress")
        return (
            self._event(ResponseEvent, "response.created", response=begun)
            + self._event(ResponseEvent, "response.in_progress", response=begun)
            + self._event(OutputItemEvent, "response.output_item.added", output_index=0, item=item)
            + self._event(
                ContentPartEvent, "response.content_part.added", **self._place, part=_part("")
            )
        )

    def token(self, token: GeneratedToken) -> str:
        """The events of a token."""
        text, logprobs = token.plain_text, self._builder.logprobs([token])
        self._logprobs += logprobs
        delta = (
            self._event(
                TextDeltaEvent,
                "response.output_text.delta",
                **self._place,
                delta=text,
                logprobs=logprobs,
            )
            if text or logprobs
            else ""
        )
        return delta if token.result is None else delta + self._ending(token.result)

    def failure(self, error: RequestError) -> str:
        """The last event of a response that failed."""
        return self._event(ResponseEvent, "response.failed", response=self._builder.failed(error))

    def _ending(self, result: GeneratedSequence) -> str:
        logprobs, text = self._logprobs, result.text
        finished = self._builder.finished(result, logprobs)
        [message] = finished.output
        return (
            self._event(
                TextDoneEvent,
                "response.output_text.done",
                **self._place,
                text=text,
                logprobs=logprobs,
            )
            + self._event(
                ContentPartEvent,
                "response.content_part.done",
                **self._place,
                part=_part(text, logprobs),
            )
            + self._event(
                OutputItemEvent, "response.output_item.done", output_index=0, item=message
            )
            + self._event(ResponseEvent, f"response.{finished.status}", response=finished)
        )

    def _event(self, record: Callable[..., msgspec.Struct], name: str, **fields: object) -> str:
        event = record(type=name, sequence_number=self._next_number, **fields)
        self._next_number += 1
        return named_event(name, format_json(event))
