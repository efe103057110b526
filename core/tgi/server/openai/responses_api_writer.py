"""Writes the response and the events of `/v1/responses` from the tokens of one sequence."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

import msgspec

from tgi.errors import RequestError
from tgi.server.generation.output import GeneratedSequence, GeneratedToken
from tgi.server.http.json_format import format_json
from tgi.server.http.sse import named_event
from tgi.server.openai.logprobs import token_logprobs
from tgi.server.openai.response_schemas import ChatLogprob
from tgi.server.openai.responses_api_items import Item, MessageItem, new_item
from tgi.server.openai.responses_api_output import (
    IncompleteDetails,
    InputTokensDetails,
    OutputTokensDetails,
    Reasoning,
    Response,
    ResponseError,
    ResponseEvent,
    ResponseStatus,
    ResponseText,
    ResponseUsage,
    TextFormat,
)
from tgi.server.openai.responses_api_schemas import ResponsesRequest
from tgi.text.output import OutputPart, TextPart, ToolCallEnd
from tgi.types import FinishReason

__all__ = ["ResponseBuilder", "ResponseWriter"]


@final
@dataclass(frozen=True)
class ResponseBuilder:
    """Builds the response object. All events of one response share its id and its model."""

    body: ResponsesRequest
    model: str
    response_id: str = field(default_factory=lambda: f"resp_{secrets.token_hex(24)}")
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
            parallel_tool_calls=body.parallel_tool_calls is not False,
            previous_response_id=None,
            reasoning=Reasoning(
                None if body.reasoning is None else body.reasoning.effort, summary=None
            ),
            store=False,
            temperature=1.0 if body.temperature is None else body.temperature,
            text=ResponseText((body.text and body.text.format) or TextFormat("text")),
            tool_choice=body.tool_choice or "auto",
            tools=body.tools or [],
            top_logprobs=body.top_logprobs or 0,
            top_p=1.0 if body.top_p is None else body.top_p,
            truncation="disabled",
            usage=None,
        )

    def logprobs(self, token: GeneratedToken) -> list[ChatLogprob]:
        """The log probability of a token, if the client requested it."""
        return token_logprobs([token]) if self.body.has_logprobs else []

    def finished(self, result: GeneratedSequence, output: list[msgspec.Struct]) -> Response:
        """The response object after the end of the generation."""
        status = final_status(result)
        is_cut = status == "incomplete"
        response = self.response(status)
        response.incomplete_details = IncompleteDetails("max_output_tokens") if is_cut else None
        response.output = output
        response.usage = ResponseUsage(
            input_tokens=result.input_length,
            input_tokens_details=InputTokensDetails(result.num_cached_tokens),
            output_tokens=result.num_generated_tokens,
            output_tokens_details=OutputTokensDetails(result.num_reasoning_tokens),
            total_tokens=result.input_length + result.num_generated_tokens,
        )
        return response

    def failed(self, error: RequestError) -> Response:
        """The response object after an error."""
        response = self.response("failed")
        response.error = ResponseError("server_error", error.text)
        return response


def final_status(result: GeneratedSequence) -> ResponseStatus:
    """The status of a response after the end of the generation."""
    return "incomplete" if result.finish_reason is FinishReason.LENGTH else "completed"


@final
class ResponseWriter:
    """Collects the items of one response, and writes and numbers its events.

    If the output is plain text, there is one message, which begins before the first token.
    """

    def __init__(self, builder: ResponseBuilder, *, is_plain: bool, has_events: bool) -> None:
        """Without `has_events` the texts of the events are empty."""
        self._builder = builder
        self._is_plain = is_plain
        self._has_events = has_events
        self._next_number = 0
        self._items: list[Item] = []
        self._open_item: Item | None = None
        self._held_logprobs: list[ChatLogprob] = []

    @property
    def has_begun(self) -> bool:
        """Whether an event has been written."""
        return self._next_number > 0

    def opening(self) -> str:
        """The events before the first token."""
        begun = self._builder.response("in_progress")
        events = self._event(ResponseEvent, "response.created", response=begun) + self._event(
            ResponseEvent, "response.in_progress", response=begun
        )
        if not self._is_plain:
            return events
        return events + self._begin(MessageItem(0, self._event))

    def token(self, token: GeneratedToken) -> str:
        """The events of a token. The events of the last token include the end of the response."""
        logprobs = self._builder.logprobs(token)
        if self._is_plain:
            events = self._plain_text(token.plain_text, logprobs)
        else:
            events = self._parts(token.parts, self._held_logprobs + logprobs)
        return events if token.result is None else events + self._ending(token.result)

    def whole(self, result: GeneratedSequence) -> Response:
        """The response object of a complete sequence, none of whose tokens has been written."""
        self.opening()
        for token in result.tokens:
            self.token(token)
        self._ending(result)
        return self._finished(result)

    def _finished(self, result: GeneratedSequence) -> Response:
        return self._builder.finished(result, [item.output for item in self._items])

    def failure(self, error: RequestError) -> str:
        """The last event of a response that failed."""
        return self._event(ResponseEvent, "response.failed", response=self._builder.failed(error))

    def _plain_text(self, text: str, logprobs: Sequence[ChatLogprob]) -> str:
        assert isinstance(self._open_item, MessageItem), "the message begins before the tokens"
        return self._open_item.add_text(text, logprobs) if text or logprobs else ""

    def _parts(self, parts: Sequence[OutputPart], logprobs: list[ChatLogprob]) -> str:
        """The events of the parts of a token. The log probabilities of tokens whose text is held
        back are added with the text.
        """
        is_held = not parts and isinstance(self._open_item, MessageItem)
        self._held_logprobs = logprobs if is_held else []
        events = ""
        for part in parts:
            events += self._part(part, logprobs)
            logprobs = [] if isinstance(part, TextPart) else logprobs
        return events

    def _part(self, part: OutputPart, logprobs: Sequence[ChatLogprob]) -> str:
        if isinstance(part, ToolCallEnd):
            return self._end("completed")
        item, events = self._open_item, ""
        if item is None or not item.accepts(part):
            item = new_item(len(self._items), self._event, part)
            events = self._end("completed") + self._begin(item)
        return events + item.add(part, logprobs)

    def _begin(self, item: Item) -> str:
        self._items.append(item)
        self._open_item = item
        return item.begin()

    def _end(self, status: ResponseStatus) -> str:
        item, self._open_item = self._open_item, None
        return "" if item is None else item.end(status)

    def _ending(self, result: GeneratedSequence) -> str:
        status = final_status(result)
        events = "" if self._items else self._begin(MessageItem(0, self._event))
        if self._is_plain and isinstance(self._open_item, MessageItem):
            self._open_item.set_text(result.text)
        events += self._end(status)
        finished = self._finished(result)
        return events + self._event(ResponseEvent, f"response.{finished.status}", response=finished)

    def _event(self, record: Callable[..., msgspec.Struct], kind: str, **fields: object) -> str:
        if not self._has_events:
            return ""
        event = record(type=kind, sequence_number=self._next_number, **fields)
        self._next_number += 1
        return named_event(kind, format_json(event))
