"""Writes the message and the events of `/v1/messages` from the tokens of one sequence."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterator
from typing import final

import msgspec

from tgi.errors import RequestError
from tgi.server.anthropic.errors import anthropic_error_body
from tgi.server.anthropic.response_schemas import (
    AnthropicError,
    AnthropicResponse,
    AnthropicUsage,
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    InputJsonDelta,
    MessageDelta,
    MessageEnd,
    MessageStart,
    MessageStop,
    SignatureDelta,
    StopReason,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
)
from tgi.server.generation.output import GeneratedSequence, GeneratedToken
from tgi.server.http.json_format import format_json
from tgi.server.http.sse import named_event
from tgi.text.output import (
    OutputItem,
    OutputPart,
    ReasoningItem,
    ReasoningPart,
    TextItem,
    TextPart,
    ToolCallArguments,
    ToolCallBegin,
    complete_members,
)
from tgi.types import FinishReason

__all__ = ["MessageWriter", "whole_message"]

_Event = (
    MessageStart
    | ContentBlockStart
    | ContentBlockDelta
    | ContentBlockStop
    | MessageDelta
    | MessageStop
    | AnthropicError
)
_Block = TextBlock | ThinkingBlock | ToolUseBlock
_Delta = TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta

_STOP_REASONS: dict[FinishReason, StopReason] = {
    FinishReason.LENGTH: "max_tokens",
    FinishReason.EOS_TOKEN: "end_turn",
    FinishReason.STOP_SEQUENCE: "stop_sequence",
}
_EMPTY_INPUT = msgspec.Raw(b"{}")


def whole_message(model: str, result: GeneratedSequence) -> AnthropicResponse:
    """The message of a complete sequence."""
    message = _message(model, _usage(result))
    message.content = [_block(item) for item in result.items] or [TextBlock("text", "")]
    message.stop_reason = _stop_reason(result)
    message.stop_sequence = result.stop
    return message


@final
class MessageWriter:
    """Writes the events of one message. A block begins with its first part. If the output is plain
    text, there is one block, which begins before the first token.
    """

    def __init__(self, model: str, *, is_plain: bool) -> None:
        self._model = model
        self._is_plain = is_plain
        self._index = -1  # of the current block
        self._kind: type[_Block] | None = None  # of the current block
        self._thinking: list[str] = []

    def opening(self, input_length: int) -> str:
        """The events before the first token. `input_length` is in tokens."""
        message = _message(self._model, AnthropicUsage(input_length, 0, 0, 0))
        events = _event(MessageStart("message_start", message))
        if self._is_plain:
            events += "".join(map(_event, self._begin(TextBlock("text", ""))))
        return events

    def token(self, token: GeneratedToken) -> str:
        """The events of a token. The events of the last token include the end of the message."""
        if self._is_plain:
            events = list(self._plain(token.plain_text))
        else:
            events = [event for part in token.parts for event in self._part(part)]
        if token.result is not None:
            events += self._ending(token.result)
        return "".join(map(_event, events))

    def failure(self, error: RequestError) -> str:
        """The last event of a message that failed."""
        return _event(anthropic_error_body(error))

    def _plain(self, text: str) -> Iterator[_Event]:
        if text:
            yield self._delta(TextDelta("text_delta", text))

    def _part(self, part: OutputPart) -> Iterator[_Event]:
        match part:
            case TextPart(text):
                if self._kind is not TextBlock:
                    yield from self._begin(TextBlock("text", ""))
                yield self._delta(TextDelta("text_delta", text))
            case ReasoningPart(text):
                if self._kind is not ThinkingBlock:
                    yield from self._begin(ThinkingBlock("thinking", "", ""))
                self._thinking.append(text)
                yield self._delta(ThinkingDelta("thinking_delta", text))
            case ToolCallBegin(_, call_id, name):
                yield from self._begin(ToolUseBlock("tool_use", call_id, name, _EMPTY_INPUT))
            case ToolCallArguments(_, text):
                yield self._delta(InputJsonDelta("input_json_delta", text))

    def _begin(self, block: _Block) -> Iterator[_Event]:
        yield from self._end()
        self._index += 1
        self._kind = type(block)
        yield ContentBlockStart("content_block_start", self._index, block)

    def _end(self) -> Iterator[_Event]:
        if self._kind is ThinkingBlock:
            yield self._delta(
                SignatureDelta("signature_delta", _signature("".join(self._thinking)))
            )
            self._thinking.clear()
        if self._kind is not None:
            yield ContentBlockStop("content_block_stop", self._index)
        self._kind = None

    def _delta(self, delta: _Delta) -> ContentBlockDelta:
        return ContentBlockDelta("content_block_delta", self._index, delta)

    def _ending(self, result: GeneratedSequence) -> Iterator[_Event]:
        if self._index < 0:
            yield from self._begin(TextBlock("text", ""))
        yield from self._end()
        yield MessageDelta(
            "message_delta", MessageEnd(_stop_reason(result), result.stop), _usage(result)
        )
        yield MessageStop("message_stop")


def _block(item: OutputItem) -> _Block:
    match item:
        case TextItem(text):
            return TextBlock("text", text)
        case ReasoningItem(text):
            return ThinkingBlock("thinking", text, _signature(text))
    # The input of an incomplete call has the complete members only, because it must be an object.
    arguments = msgspec.Raw(complete_members(item.arguments).encode())
    return ToolUseBlock("tool_use", item.call_id, item.name, arguments)


def _signature(thinking: str) -> str:
    """The signature of a thinking. Some clients drop a block without a signature."""
    return base64.b64encode(hashlib.sha256(thinking.encode()).digest()).decode()


def _stop_reason(result: GeneratedSequence) -> StopReason:
    """The stop reason of a message. If it contains a complete tool call and the model ended it, the
    reason is `tool_use`.
    """
    reason = _STOP_REASONS[result.finish_reason]
    return "tool_use" if reason == "end_turn" and result.has_calls else reason


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
