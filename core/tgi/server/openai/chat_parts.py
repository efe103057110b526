"""Formats the parts of an output for the chat route: reasoning, tool calls and the final text."""

from __future__ import annotations

from typing import final

from tgi.server.generation.output import GeneratedSequence, GeneratedToken
from tgi.server.http.json_format import HOLE, format_json, split_at_holes
from tgi.server.http.sse import event
from tgi.server.openai.logprobs import chat_logprobs
from tgi.server.openai.response_bodies import Envelope, finish_reason
from tgi.server.openai.response_schemas import (
    ChatCompletionChoice,
    ChatCompletionChunkChoice,
    ChatCompletionDelta,
    FunctionCall,
    FunctionCallDelta,
    OutputMessage,
    ToolCall,
    ToolCallDelta,
)
from tgi.text.output import (
    CallItem,
    OutputPart,
    ReasoningItem,
    ReasoningPart,
    TextItem,
    TextPart,
    ToolCallArguments,
    ToolCallBegin,
)

__all__ = ["PartChunkWriter", "chat_choice"]


def chat_choice(
    index: int, sequence: GeneratedSequence, has_logprobs: bool
) -> ChatCompletionChoice:
    """One choice of a chat completion."""
    return ChatCompletionChoice(
        index,
        _message(sequence),
        chat_logprobs(sequence.tokens) if has_logprobs else None,
        finish_reason(sequence),
    )


def _message(sequence: GeneratedSequence) -> OutputMessage:
    """The message of the assistant. If it consists of tool calls, its content is null."""
    message = OutputMessage("assistant", sequence.text, None)
    if sequence.parts is None:
        return message
    items = sequence.items
    text = "".join(item.text for item in items if isinstance(item, TextItem))
    reasoning = "".join(item.text for item in items if isinstance(item, ReasoningItem))
    calls = [
        ToolCall(item.call_id, "function", FunctionCall(item.name, item.arguments))
        for item in items
        if isinstance(item, CallItem)
    ]
    message.content = None if calls and not text else text
    if reasoning:
        message.reasoning_content = message.reasoning = reasoning
    if calls:
        message.tool_calls = calls
    return message


@final
class PartChunkWriter:
    """Converts the parts of the tokens of one prompt to chunks. There is one chunk per part, and
    none for a token without a part. If log probabilities were requested, every token has a chunk.
    The last chunk of a sequence contains the finish reason.
    """

    def __init__(self, envelope: Envelope, *, has_logprobs: bool) -> None:
        choice = ChatCompletionChunkChoice(HOLE, HOLE, HOLE, HOLE)
        self._chunk_parts = split_at_holes(envelope.object_with([choice], None))
        self._has_logprobs = has_logprobs
        self._begun: set[int] = set()  # the choices of which a chunk was written

    def events(self, token: GeneratedToken) -> str:
        """The events of one token."""
        deltas = [delta for part in token.parts if (delta := _delta(part)) is not None]
        logprobs = format_json(chat_logprobs([token])) if self._has_logprobs else "null"
        if not deltas and (self._has_logprobs or token.result is not None):
            deltas = [ChatCompletionDelta()]
        events, last = [], len(deltas) - 1
        for place, delta in enumerate(deltas):
            is_end = place == last and token.result is not None
            reason = f'"{finish_reason(token.result)}"' if is_end and token.result else "null"
            events.append(self._event(token.sequence, delta, logprobs, reason))
            logprobs = "null"
        return "".join(events)

    def _event(self, sequence: int, delta: ChatCompletionDelta, logprobs: str, reason: str) -> str:
        if sequence not in self._begun:
            self._begun.add(sequence)
            delta.role = "assistant"
        head, before_delta, before_logprobs, before_reason, tail = self._chunk_parts
        return event(
            f"{head}{sequence}{before_delta}{format_json(delta)}"
            f"{before_logprobs}{logprobs}{before_reason}{reason}{tail}"
        )


def _delta(part: OutputPart) -> ChatCompletionDelta | None:
    """The change that a part makes to the message, or None if it makes none."""
    match part:
        case TextPart(text):
            return ChatCompletionDelta(content=text)
        case ReasoningPart(text):
            return ChatCompletionDelta(reasoning_content=text, reasoning=text)
        case ToolCallBegin(index, call_id, name):
            function = FunctionCallDelta(name=name, arguments="")
            call = ToolCallDelta(index=index, id=call_id, type="function", function=function)
            return ChatCompletionDelta(tool_calls=[call])
        case ToolCallArguments(index, text):
            call = ToolCallDelta(index=index, function=FunctionCallDelta(arguments=text))
            return ChatCompletionDelta(tool_calls=[call])
    return None
