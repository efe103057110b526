"""OpenAI's route `/v1/responses`, which supports text only. Responses are not stored.

The route uses the same chat template and generation pipeline as the other chat routes. The schemas
are those of the OpenAI API reference. A stream begins only after the request has been validated, so
that an invalid request is rejected with its own status.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp

from tgi.backend import SamplingParams
from tgi.errors import RequestError, ValidationError
from tgi.server.chat.prompt import render_prompt
from tgi.server.generation.output import GeneratedSequence, GeneratedToken
from tgi.server.generation.parameters import StopStyle, TextRequest, generate_parameters
from tgi.server.generation.pipeline import GenerationPipeline, response_headers, stream_headers
from tgi.server.http.json_format import format_json
from tgi.server.http.responses import json_response
from tgi.server.http.sse import EventStream, named_event
from tgi.server.openai.requests import reject_unsupported
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
from tgi.server.openai.responses_api_schemas import InputItem, ResponsesRequest
from tgi.server.state import ServerState
from tgi.types import FinishReason

__all__ = ["ResponsesRoutes", "StatelessError"]

_TEXT_FORMAT = {"type": "text"}
_TEXT_PARTS = ("input_text", "output_text", "text")
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


@final
class StatelessError(RequestError):
    """Error 400 for a request that refers to stored responses."""

    status = 400
    error_type = "invalid_request_error"


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
            top_p=1.0 if body.top_p is None else body.top_p,
            truncation="disabled",
            usage=None,
        )

    def finished(self, result: GeneratedSequence) -> Response:
        """The response object after the end of the generation."""
        is_cut = result.finish_reason is FinishReason.LENGTH
        response = self.response("incomplete" if is_cut else "completed")
        response.incomplete_details = IncompleteDetails("max_output_tokens") if is_cut else None
        response.output = [self.item(response.status, result.text)]
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

    def item(self, status: ResponseStatus, text: str | None = None) -> OutputItem:
        """The message of the response. Its content is empty if `text` is None."""
        content = [] if text is None else [_part(text)]
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
            request = await _text_request(body, self._state)
        builder = _ResponseBuilder(body, self._pipeline.model_name(body.model))
        if body.stream:
            return await EventStream.open(
                call.receive, self._events(request, builder), stream_headers(config, [request])
            )
        sequences = await self._pipeline.collect(call, request)
        response = msgspec.json.encode(builder.finished(sequences[0]))
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


async def _text_request(body: ResponsesRequest, state: ServerState) -> TextRequest:
    if body.previous_response_id is not None or body.conversation is not None:
        name = "conversation" if body.previous_response_id is None else "previous_response_id"
        raise StatelessError(
            f"`{name}` is not supported, because this server does not store responses: send the"
            " whole conversation in `input`"
        )
    text_format = None if body.text is None else body.text.format
    reject_unsupported(
        {
            "prompt": body.prompt,
            "background": body.background,
            "tools": body.tools,
            "text.format": text_format not in (None, _TEXT_FORMAT),
            "truncation": body.truncation not in (None, "disabled"),
            "top_logprobs": body.top_logprobs,
            "include: message.output_text.logprobs": (
                "message.output_text.logprobs" in (body.include or ())
            ),
        }
    )
    parameters = generate_parameters(
        body,
        temperature=body.temperature,
        top_p=body.top_p,
        max_new_tokens=body.max_output_tokens,
        seed=body.seed,
    )
    prompt = await render_prompt(state.chat_template, _messages(body))
    return TextRequest(
        prompt, parameters, StopStyle.OPENAI, add_special_tokens=False, sampling=SamplingParams()
    )


def _messages(body: ResponsesRequest) -> list[Mapping[str, Any]]:
    messages: list[Mapping[str, Any]] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*messages, {"role": "user", "content": body.input}]
    return messages + [_message(item, index) for index, item in enumerate(body.input)]


def _message(item: InputItem, index: int) -> Mapping[str, Any]:
    if item.type not in (None, "message"):
        raise ValidationError(
            f"`input[{index}]` of type `{item.type}` is not supported by this version: leave it out"
        )
    role = _ROLES.get(item.role or "")
    if role is None:
        raise ValidationError(
            f"`input[{index}].role` must be one of {', '.join(_ROLES)}. Given: {item.role}"
        )
    if isinstance(item.content, str):
        return {"role": role, "content": item.content}
    if not isinstance(item.content, list):
        raise ValidationError(f"`input[{index}].content` must be a string or a list of parts")
    return {
        "role": role,
        "content": [{"type": "text", "text": _part_text(part, index)} for part in item.content],
    }


def _part_text(part: object, index: int) -> str:
    match part:
        case {"type": str() as kind, "text": str() as text} if kind in _TEXT_PARTS:
            return text
    raise ValidationError(
        f"only text is supported in `input[{index}].content` by this version: remove images and"
        " files"
    )


def _part(text: str) -> ContentPart:
    return ContentPart("output_text", text, annotations=[], logprobs=[])


@final
class _EventWriter:
    """Writes and numbers the events of one response."""

    def __init__(self, builder: _ResponseBuilder) -> None:
        self._builder = builder
        self._place = {"item_id": builder.item_id, "output_index": 0, "content_index": 0}
        self._next_number = 0

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
        text = token.plain_text
        delta = (
            self._event(
                TextDeltaEvent,
                "response.output_text.delta",
                **self._place,
                delta=text,
                logprobs=[],
            )
            if text
            else ""
        )
        return delta if token.result is None else delta + self._ending(token.result)

    def failure(self, error: RequestError) -> str:
        """The last event of a response that failed."""
        return self._event(ResponseEvent, "response.failed", response=self._builder.failed(error))

    def _ending(self, result: GeneratedSequence) -> str:
        finished, text = self._builder.finished(result), result.text
        [message] = finished.output
        return (
            self._event(
                TextDoneEvent, "response.output_text.done", **self._place, text=text, logprobs=[]
            )
            + self._event(
                ContentPartEvent, "response.content_part.done", **self._place, part=_part(text)
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
