"""Anthropic's routes `/v1/messages` and `/v1/messages/count_tokens`, which support text only.

The routes use the same chat template and generation pipeline as the other chat routes. Schemas,
events, statuses and error types are those of the Anthropic API reference.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any, final

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp

from tgi.backend import SamplingParams
from tgi.errors import RequestError, ValidationError
from tgi.server.anthropic.response_schemas import (
    AnthropicError,
    AnthropicResponse,
    AnthropicUsage,
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    ErrorDetails,
    InputTokens,
    MessageDelta,
    MessageDeltaUsage,
    MessageEnd,
    MessageStart,
    MessageStop,
    StopReason,
    TextBlock,
    TextDelta,
)
from tgi.server.anthropic.schemas import (
    AnthropicMessage,
    ContentBlock,
    CountTokensRequest,
    MessagesRequest,
)
from tgi.server.chat.prompt import render_prompt
from tgi.server.generation.output import GeneratedToken
from tgi.server.generation.parameters import StopStyle, TextRequest, generate_parameters
from tgi.server.generation.pipeline import GenerationPipeline, response_headers, stream_headers
from tgi.server.http.json_format import format_json
from tgi.server.http.json_reader import RejectionError
from tgi.server.http.responses import error_headers, json_response
from tgi.server.http.sse import EventStream, named_event
from tgi.server.openai.requests import reject_unsupported
from tgi.server.state import ServerState
from tgi.types import FinishReason

__all__ = ["AnthropicRoutes"]

Json = dict[str, Any]

_Event = (
    MessageStart
    | ContentBlockStart
    | ContentBlockDelta
    | ContentBlockStop
    | MessageDelta
    | MessageStop
    | AnthropicError
)

_STOP_REASONS: dict[FinishReason, StopReason] = {
    FinishReason.LENGTH: "max_tokens",
    FinishReason.EOS_TOKEN: "end_turn",
    FinishReason.STOP_SEQUENCE: "stop_sequence",
}
_BAD_REQUEST = (400, "invalid_request_error")
_ERRORS = {
    400: _BAD_REQUEST,
    413: (413, "request_too_large"),
    415: _BAD_REQUEST,
    422: _BAD_REQUEST,
    429: (429, "rate_limit_error"),
    503: (529, "overloaded_error"),
}
_OTHER_ERROR = (500, "api_error")
_ROLES = ("user", "assistant")


@final
class AnthropicRoutes:
    """Handlers of Anthropic's routes."""

    def __init__(self, state: ServerState, pipeline: GenerationPipeline) -> None:
        self._state = state
        self._pipeline = pipeline

    async def messages(self, http_request: HttpRequest) -> ASGIApp:
        """Handle `POST /v1/messages`."""
        try:
            return await self._create(http_request)
        except (RequestError, RejectionError) as error:
            return _error_response(error)

    async def count_tokens(self, http_request: HttpRequest) -> ASGIApp:
        """Handle `POST /v1/messages/count_tokens`. The response contains the number of input
        tokens.
        """
        try:
            _, body = await self._pipeline.read(http_request, CountTokensRequest)
            prompt = await self._prompt(body)
            with self._pipeline.slot():
                encoding = await self._state.tokenizer.encode(prompt, add_special_tokens=False)
        except (RequestError, RejectionError) as error:
            return _error_response(error)
        return json_response(msgspec.json.encode(InputTokens(len(encoding.ids))))

    async def _create(self, http_request: HttpRequest) -> ASGIApp:
        config = self._state.config
        call, body = await self._pipeline.read(http_request, MessagesRequest)
        with self._pipeline.counted():
            request = await self._text_request(body)
        model = self._pipeline.model_name(body.model)
        if body.stream:
            return await EventStream.open(
                call.receive, self._events(request, model), stream_headers(config, [request])
            )
        [result] = sequences = await self._pipeline.collect(call, request)
        message = _message(model, result.input_length)
        message.content = [TextBlock("text", result.text)]
        message.stop_reason = _STOP_REASONS[result.finish_reason]
        message.stop_sequence = result.stop
        message.usage.output_tokens = result.num_generated_tokens
        headers = response_headers(config, [request], [sequences])
        return json_response(msgspec.json.encode(message), headers)

    async def _events(self, request: TextRequest, model: str) -> AsyncGenerator[str, None]:
        """Yield the events of a stream. The last event is either `message_stop` or `error`. Raises
        `RequestError` before the first event if the request is rejected.
        """
        has_begun = False
        try:
            async with self._pipeline.stream(request) as generation:
                has_begun = True
                message = _message(model, generation.input_length)
                yield _event(MessageStart("message_start", message)) + _event(
                    ContentBlockStart("content_block_start", 0, TextBlock("text", ""))
                )
                async for tokens in generation:
                    yield "".join(
                        [_event(data) for token in tokens for data in _token_events(token)]
                    )
        except RequestError as error:
            if not has_begun:
                raise
            yield _event(_error_body(error))

    async def _text_request(self, body: MessagesRequest) -> TextRequest:
        prompt = await self._prompt(body)
        parameters = generate_parameters(
            body,
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
            max_new_tokens=body.max_tokens,
            stop=body.stop_sequences or (),
            seed=body.seed,
        )
        return TextRequest(
            prompt,
            parameters,
            StopStyle.OPENAI,
            add_special_tokens=False,
            sampling=SamplingParams(),
        )

    async def _prompt(self, body: MessagesRequest | CountTokensRequest) -> str:
        is_thinking = isinstance(body.thinking, Mapping) and body.thinking.get("type") != "disabled"
        reject_unsupported({"tools": body.tools, "thinking": is_thinking})
        messages: list[Json] = []
        if body.system:
            messages.append({"role": "system", "content": _text(body.system, "system")})
        messages += [_turn(message, index) for index, message in enumerate(body.messages)]
        return await render_prompt(self._state.chat_template, messages)


def _turn(message: AnthropicMessage, index: int) -> Json:
    if message.role not in _ROLES:
        raise ValidationError(
            f"`messages[{index}].role` must be one of {', '.join(_ROLES)}. Given: {message.role}"
        )
    return {"role": message.role, "content": _text(message.content, f"messages[{index}].content")}


def _text(content: str | Sequence[ContentBlock], place: str) -> str:
    if isinstance(content, str):
        return content
    other = next(
        (block.type for block in content if block.type != "text" or block.text is None), None
    )
    if other is not None:
        raise ValidationError(
            f"only text is supported in `{place}` by this version. Given: a block of type `{other}`"
        )
    return "".join(block.text or "" for block in content)


def _token_events(token: GeneratedToken) -> Iterator[_Event]:
    if token.plain_text:
        delta = TextDelta("text_delta", token.plain_text)
        yield ContentBlockDelta("content_block_delta", 0, delta)
    result = token.result
    if result is not None:
        yield ContentBlockStop("content_block_stop", 0)
        end = MessageEnd(_STOP_REASONS[result.finish_reason], result.stop)
        usage = MessageDeltaUsage(result.num_generated_tokens)
        yield MessageDelta("message_delta", end, usage)
        yield MessageStop("message_stop")


def _event(event: _Event) -> str:
    return named_event(event.type, format_json(event))


def _message(model: str, input_length: int) -> AnthropicResponse:
    """Create a message object without content."""
    return AnthropicResponse(
        id=f"msg_{secrets.token_hex(12)}",
        type="message",
        role="assistant",
        model=model,
        content=[],
        stop_reason=None,
        stop_sequence=None,
        usage=AnthropicUsage(input_length, 0),
    )


def _error_body(error: RequestError | RejectionError) -> AnthropicError:
    _, kind = _ERRORS.get(error.status, _OTHER_ERROR)
    return AnthropicError("error", ErrorDetails(kind, error.text))


def _error_response(error: RequestError | RejectionError) -> Response:
    status, _ = _ERRORS.get(error.status, _OTHER_ERROR)
    headers = error_headers(error) if isinstance(error, RequestError) else {}
    return json_response(msgspec.json.encode(_error_body(error)), headers, status)
