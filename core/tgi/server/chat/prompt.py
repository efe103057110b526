"""Renders chat messages to a prompt. All chat routes use this module."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec

from tgi.errors import TemplateError, ValidationError
from tgi.server.http.json_format import format_json
from tgi.server.http.json_reader import RejectionError
from tgi.text import ChatTemplateRenderer

__all__ = ["render_prompt"]

_SHAPE = "Failed to deserialize the JSON body into the target type: "
_NO_VARIANT = "data did not match any variant of untagged enum MessageBody"
_MANY_ENTRIES = 64
_MEDIA = frozenset({"image_url", "input_audio", "file", "image", "audio", "video_url"})


class ConversationEntry(Protocol):
    """An entry of a conversation in the schema of any chat route."""

    @property
    def content(self) -> Any:  # noqa: ANN401 - a text, a list of parts, or invalid
        """The content of the entry."""


class FunctionText(msgspec.Struct):
    """A called function in the text of a message. The order of the fields is TGI's."""

    description: str | None
    name: str
    arguments: str


class ToolCallText(msgspec.Struct):
    """A tool call in the text of a message. The order of the fields is TGI's."""

    id: str
    type: str
    function: FunctionText


async def render_prompt(
    template: ChatTemplateRenderer | None,
    entries: Sequence[ConversationEntry] | str,
    read_messages: Callable[[], Sequence[Mapping[str, Any]]],
) -> str:
    """Render the prompt for the next message of the assistant. `entries` is the conversation as the
    client sent it, and `read_messages` converts it to messages. The conversion of a conversation
    with many entries runs in a thread.

    The role `developer` becomes `system`, unless the template contains the name `developer`. A
    message without content has an empty text. If it has tool calls and the template does not read
    them, its text is the JSON of the calls, as in TGI.

    Raises `TemplateError` and the errors of `read_messages`. Raises `ValidationError` if a message
    contains media, and `RejectionError` if the content of a message has no known schema.
    """
    prepare = partial(_prepared_messages, template, read_messages)
    messages = await asyncio.to_thread(prepare) if _has_many_entries(entries) else prepare()
    assert template is not None, "the preparation fails without a template"
    return await template.render(messages)


def _has_many_entries(entries: Sequence[ConversationEntry] | str) -> bool:
    """Whether the conversion to messages takes so long that it must not run in the event loop."""
    if isinstance(entries, str):
        return False
    return len(entries) > _MANY_ENTRIES or any(
        isinstance(entry.content, list) and len(entry.content) > _MANY_ENTRIES for entry in entries
    )


def _prepared_messages(
    template: ChatTemplateRenderer | None, read_messages: Callable[[], Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    messages = read_messages()
    for index, message in enumerate(messages):
        _check_content(message, index)
    if template is None:
        raise TemplateError("template not found")
    return [_prepared(message, template) for message in messages]


def _check_content(message: Mapping[str, Any], index: int) -> None:
    """Check that the content is a text or a list of text parts. A message of the assistant, or one
    with tool calls, may have no content.
    """
    match message.get("content"):
        case str():
            return
        case None if message.get("tool_calls") or message["role"] == "assistant":
            return
        case list() as parts:
            for part in parts:
                match part:
                    case {"type": "text", "text": str()} | {"type": "refusal", "refusal": str()}:
                        continue
                    case {"type": str() as kind} if kind in _MEDIA:
                        raise ValidationError(
                            "only text is supported in `messages` by this version: remove images"
                            " and audio"
                        )
                raise RejectionError(422, f"{_SHAPE}messages[{index}]: {_NO_VARIANT}")
        case _:
            raise RejectionError(422, f"{_SHAPE}messages[{index}]: {_NO_VARIANT}")


def _prepared(message: Mapping[str, Any], template: ChatTemplateRenderer) -> dict[str, Any]:
    """Return the message with a role and a content that the template can read."""
    prepared = dict(message)
    if prepared["role"] == "developer" and not template.mentions("developer"):
        prepared["role"] = "system"
    content, calls = prepared.get("content"), prepared.get("tool_calls")
    refusal = prepared.pop("refusal", None)
    if isinstance(content, list):
        prepared["content"] = [_text_part(part) for part in content]
    elif not content and calls and not template.mentions("tool_calls"):
        prepared["content"] = _calls_as_text(calls)
    elif content is None:
        prepared["content"] = refusal or ""
    return prepared


def _text_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a part of the content as text. The text of a refusal is the refusal."""
    return {"type": "text", "text": part["refusal"]} if part["type"] == "refusal" else part


def _calls_as_text(calls: object) -> str:
    """The compact JSON of the tool calls. As in TGI, the arguments are JSON inside a string."""
    if not isinstance(calls, list):
        return format_json(calls)
    return format_json([_call_as_text(call) for call in calls])


def _call_as_text(call: object) -> object:
    """Return the record of a call. A call without a function remains as it is."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        return call
    arguments = function.get("arguments", function.get("parameters"))
    description = function.get("description")
    return ToolCallText(
        str(call.get("id", "")),
        str(call.get("type", "function")),
        FunctionText(description, str(function.get("name", "")), format_json(arguments)),
    )
