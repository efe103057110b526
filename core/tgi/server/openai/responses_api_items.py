"""The items of a response of `/v1/responses` while they are generated, and the events of each."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Protocol, final

import msgspec

from tgi.server.openai.response_schemas import ChatLogprob
from tgi.server.openai.responses_api_output import (
    ArgumentsDeltaEvent,
    ArgumentsDoneEvent,
    ContentPart,
    ContentPartEvent,
    FunctionCallOutput,
    OutputItem,
    OutputItemEvent,
    ReasoningDeltaEvent,
    ReasoningDoneEvent,
    ReasoningOutput,
    ReasoningText,
    ResponseStatus,
    TextDeltaEvent,
    TextDoneEvent,
)
from tgi.text.output import OutputPart, ReasoningPart, TextPart, ToolCallArguments, ToolCallBegin

__all__ = ["EventFormat", "Item", "MessageItem", "new_item"]


class EventFormat(Protocol):
    """Formats and numbers one event."""

    def __call__(self, record: Callable[..., msgspec.Struct], kind: str, **fields: object) -> str:
        """The text of the event with this record, type and fields."""


class Item(Protocol):
    """An item of the output. The methods return the text of events."""

    def begin(self) -> str:
        """The events at the start of the item."""

    def accepts(self, part: OutputPart) -> bool:
        """Whether the part belongs to this item."""

    def add(self, part: OutputPart, logprobs: Sequence[ChatLogprob]) -> str:
        """The event that adds a part to the item. Only a text has log probabilities."""

    def end(self, status: ResponseStatus) -> str:
        """The events at the end of the item. `status` is its final status."""

    @property
    def output(self) -> msgspec.Struct:
        """The item in the response object, after its end."""


@final
class MessageItem:
    """A message of the assistant. `index` is its position among the items of the response."""

    def __init__(self, index: int, event: EventFormat) -> None:
        self._event = event
        self._pieces: list[str] = []
        self._logprobs: list[ChatLogprob] = []
        self._item = OutputItem(_new_id("msg"), "message", "in_progress", "assistant", [])
        self._place = {"item_id": self._item.id, "output_index": index, "content_index": 0}
        self._index = index

    @property
    def output(self) -> msgspec.Struct:
        """See `Item`."""
        return self._item

    def begin(self) -> str:
        """See `Item`."""
        return _item_event(self._event, "added", self._index, self._item) + self._event(
            ContentPartEvent, "response.content_part.added", **self._place, part=_text_part("", [])
        )

    def accepts(self, part: OutputPart) -> bool:
        """See `Item`."""
        return isinstance(part, TextPart)

    def add(self, part: OutputPart, logprobs: Sequence[ChatLogprob]) -> str:
        """See `Item`."""
        return self.add_text(part.text, logprobs) if isinstance(part, TextPart) else ""

    def add_text(self, text: str, logprobs: Sequence[ChatLogprob]) -> str:
        """The event that adds text to the message."""
        self._pieces.append(text)
        self._logprobs += logprobs
        kind = "response.output_text.delta"
        return self._event(TextDeltaEvent, kind, **self._place, delta=text, logprobs=logprobs)

    def set_text(self, text: str) -> None:
        """Replace the text before the end of the item."""
        self._pieces = [text]

    def end(self, status: ResponseStatus) -> str:
        """See `Item`."""
        part = _text_part("".join(self._pieces), self._logprobs)
        self._item.status, self._item.content = status, [part]
        return (
            self._event(
                TextDoneEvent,
                "response.output_text.done",
                **self._place,
                text=part.text,
                logprobs=part.logprobs,
            )
            + self._event(ContentPartEvent, "response.content_part.done", **self._place, part=part)
            + _item_event(self._event, "done", self._index, self._item)
        )


@final
class ReasoningItem:
    """A reasoning of the model. `index` is its position among the items of the response."""

    def __init__(self, index: int, event: EventFormat) -> None:
        self._event = event
        self._pieces: list[str] = []
        self._item = ReasoningOutput(_new_id("rs"), "reasoning", "in_progress", [], [])
        self._place = {"item_id": self._item.id, "output_index": index, "content_index": 0}
        self._index = index

    @property
    def output(self) -> msgspec.Struct:
        """See `Item`."""
        return self._item

    def begin(self) -> str:
        """See `Item`."""
        part, kind = ReasoningText("reasoning_text", ""), "response.content_part.added"
        return _item_event(self._event, "added", self._index, self._item) + self._event(
            ContentPartEvent, kind, **self._place, part=part
        )

    def accepts(self, part: OutputPart) -> bool:
        """See `Item`."""
        return isinstance(part, ReasoningPart)

    def add(self, part: OutputPart, logprobs: Sequence[ChatLogprob]) -> str:
        """See `Item`."""
        del logprobs
        if not isinstance(part, ReasoningPart):
            return ""
        self._pieces.append(part.text)
        kind = "response.reasoning_text.delta"
        return self._event(ReasoningDeltaEvent, kind, **self._place, delta=part.text)

    def end(self, status: ResponseStatus) -> str:
        """See `Item`."""
        part = ReasoningText("reasoning_text", "".join(self._pieces))
        self._item.status, self._item.content = status, [part]
        return (
            self._event(
                ReasoningDoneEvent, "response.reasoning_text.done", **self._place, text=part.text
            )
            + self._event(ContentPartEvent, "response.content_part.done", **self._place, part=part)
            + _item_event(self._event, "done", self._index, self._item)
        )


@final
class CallItem:
    """A function call. `index` is its position among the items of the response."""

    def __init__(self, index: int, event: EventFormat, call_id: str, name: str) -> None:
        self._event = event
        self._pieces: list[str] = []
        self._item = FunctionCallOutput(
            _new_id("fc"), "function_call", "in_progress", "", call_id, name
        )
        self._place = {"item_id": self._item.id, "output_index": index}
        self._index = index

    @property
    def output(self) -> msgspec.Struct:
        """See `Item`."""
        return self._item

    def begin(self) -> str:
        """See `Item`."""
        return _item_event(self._event, "added", self._index, self._item)

    def accepts(self, part: OutputPart) -> bool:
        """See `Item`."""
        return isinstance(part, ToolCallArguments)

    def add(self, part: OutputPart, logprobs: Sequence[ChatLogprob]) -> str:
        """See `Item`."""
        del logprobs
        if not isinstance(part, ToolCallArguments):
            return ""
        self._pieces.append(part.text)
        kind = "response.function_call_arguments.delta"
        return self._event(ArgumentsDeltaEvent, kind, **self._place, delta=part.text)

    def end(self, status: ResponseStatus) -> str:
        """See `Item`."""
        self._item.status, self._item.arguments = status, "".join(self._pieces)
        return self._event(
            ArgumentsDoneEvent,
            "response.function_call_arguments.done",
            **self._place,
            name=self._item.name,
            arguments=self._item.arguments,
        ) + _item_event(self._event, "done", self._index, self._item)


def new_item(index: int, event: EventFormat, first: OutputPart) -> Item:
    """The item that begins with the part `first`."""
    match first:
        case ToolCallBegin(_, call_id, name):
            return CallItem(index, event, call_id, name)
        case ReasoningPart():
            return ReasoningItem(index, event)
    return MessageItem(index, event)


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(24)}"


def _text_part(text: str, logprobs: list[ChatLogprob]) -> ContentPart:
    return ContentPart("output_text", text, annotations=[], logprobs=logprobs)


def _item_event(event: EventFormat, change: str, index: int, item: msgspec.Struct) -> str:
    return event(OutputItemEvent, f"response.output_item.{change}", output_index=index, item=item)
