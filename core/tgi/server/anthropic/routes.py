"""Anthropic's routes `/v1/messages` and `/v1/messages/count_tokens`, which support text only.

The routes use the same chat template and generation pipeline as the other chat routes. Schemas,
events, statuses and error types are those of the Anthropic API reference.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, final

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp

from tgi.backend import SamplingParams
from tgi.errors import RequestError, ValidationError
from tgi.server.anthropic.errors import anthropic_error_body
from tgi.server.anthropic.response_schemas import (
    AnthropicError,
    AnthropicResponse,
    AnthropicUsage,
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    InputTokens,
    MessageDelta,
    MessageEnd,
    MessageStart,
    MessageStop,
    StopReason,
    TextBlock,
    TextDelta,
)
from tgi.server.anthropic.schemas import (
    UNSUPPORTED_FIELDS,
    AnthropicMessage,
    ContentBlock,
    CountTokensRequest,
    MessagesRequest,
    SharedFields,
)
from tgi.server.chat.prompt import render_prompt
from tgi.server.generation.output import GeneratedSequence, GeneratedToken
from tgi.server.generation.parameters import (
    StopStyle,
    TextRequest,
    generate_parameters,
    reject_unsupported,
)
from tgi.server.generation.pipeline import GenerationPipeline, response_headers, stream_headers
from tgi.server.generation.protocols import ANTHROPIC
from tgi.server.http.json_format import format_json
from tgi.server.http.responses import json_response
from tgi.server.http.sse import EventStream, named_event
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
_ROLES = ("user", "assistant")
_THOUGHTS = ("thinking", "redacted_thinking")


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
            request = await self._text_request(body)
        model = self._pipeline.model_name(body.model)
        if body.stream:
            return await EventStream.open(
                call.receive, self._events(request, model), stream_headers(config, [request])
            )
        [result] = sequences = await self._pipeline.collect(call, request)
        message = _message(model, _usage(result))
        message.content = [TextBlock("text", result.text)]
        message.stop_reason = _STOP_REASONS[result.finish_reason]
        message.stop_sequence = result.stop
        headers = response_headers(config, [request], [sequences])
        return json_response(msgspec.json.encode(message), headers)

    async def count_tokens(self, http_request: HttpRequest) -> ASGIApp:
        """Handle `POST /v1/messages/count_tokens`. The response contains the number of input
        tokens.
        """
        _, body = await self._pipeline.read(http_request, CountTokensRequest)
        prompt = await self._prompt(body)
        with self._pipeline.slot():
            num_tokens = await self._state.tokenizer.count(prompt, add_special_tokens=False)
        return json_response(msgspec.json.encode(InputTokens(num_tokens)))

    async def _events(self, request: TextRequest, model: str) -> AsyncGenerator[str, None]:
        """Yield the events of a stream. The last event is either `message_stop` or `error`. Raises
        `RequestError` before the first event if the request is rejected.
        """
        has_begun = False
        try:
            async with self._pipeline.stream(request) as generation:
                has_begun = True
                message = _message(model, AnthropicUsage(generation.input_length, 0, 0, 0))
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
            yield _event(anthropic_error_body(error))

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
            protocol=ANTHROPIC,
        )

    async def _prompt(self, body: MessagesRequest | CountTokensRequest) -> str:
        _reject_unsupported(body)
        entries = body.messages
        if isinstance(body.system, list):
            entries = [*entries, AnthropicMessage("user", body.system)]  # only its size matters
        return await render_prompt(self._state.chat_template, entries, partial(_messages, body))


def _reject_unsupported(body: SharedFields) -> None:
    """Raise `ValidationError` for a field that would change the message. Thinking is supported only
    if the model decides whether it thinks.
    """
    kind = body.thinking.get("type") if isinstance(body.thinking, Mapping) else body.thinking
    if kind not in (None, "disabled", "adaptive"):
        raise ValidationError(
            f"`thinking` is not supported by this version with the type `{kind}`: leave it out, or"
            " use the type `adaptive`"
        )
    reject_unsupported({name: getattr(body, name) for name in UNSUPPORTED_FIELDS})


def _messages(body: SharedFields) -> list[Json]:
    messages: list[Json] = []
    if body.system:
        messages.append({"role": "system", "content": _text(body.system, "system")})
    return messages + [_turn(message, index) for index, message in enumerate(body.messages)]


def _turn(message: AnthropicMessage, index: int) -> Json:
    if message.role not in _ROLES:
        raise ValidationError(
            f"`messages[{index}].role` must be one of {', '.join(_ROLES)}. Given: {message.role}"
        )
    turn = {"role": message.role, "content": _text(message.content, f"messages[{index}].content")}
    thoughts = [] if isinstance(message.content, str) else message.content
    thinking = "".join(block.thinking or "" for block in thoughts if block.type == "thinking")
    # The chat template decides whether the prompt contains the thoughts of an earlier message.
    return turn | {"reasoning_content": thinking} if thinking else turn


def _text(content: str | Sequence[ContentBlock], place: str) -> str:
    if isinstance(content, str):
        return content
    blocks = [block for block in content if block.type not in _THOUGHTS]
    other = next(
        (block.type for block in blocks if block.type != "text" or block.text is None), None
    )
    if other is not None:
        raise ValidationError(
            f"only text is supported in `{place}` by this version. Given: a block of type `{other}`"
        )
    return "".join(block.text or "" for block in blocks)


def _token_events(token: GeneratedToken) -> Iterator[_Event]:
    if token.plain_text:
        delta = TextDelta("text_delta", token.plain_text)
        yield ContentBlockDelta("content_block_delta", 0, delta)
    result = token.result
    if result is not None:
        yield ContentBlockStop("content_block_stop", 0)
        end = MessageEnd(_STOP_REASONS[result.finish_reason], result.stop)
        yield MessageDelta("message_delta", end, _usage(result))
        yield MessageStop("message_stop")


def _usage(result: GeneratedSequence) -> AnthropicUsage:
    """The usage of a complete message. As in Anthropic's API, `input_tokens` excludes the tokens
    that were in the prefix cache.
    """
    cached = result.num_cached_tokens
    return AnthropicUsage(
        input_tokens=result.input_length - cached,
        cache_creation_input_tokens=0,
        cache_read_input_tokens=cached,
        output_tokens=result.num_generated_tokens,
    )


def _event(event: _Event) -> str:
    return named_event(event.type, format_json(event))


def _message(model: str, usage: AnthropicUsage) -> AnthropicResponse:
    """Create a message object without content."""
    return AnthropicResponse(
        id=f"msg_{secrets.token_hex(12)}",
        type="message",
        role="assistant",
        model=model,
        content=[],
        stop_reason=None,
        stop_sequence=None,
        usage=usage,
    )
