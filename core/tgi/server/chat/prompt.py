"""Renders chat messages to a prompt. All chat routes use this module."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from tgi.errors import TemplateError, ValidationError
from tgi.server.chat.messages import prepared_messages
from tgi.server.chat.tools import ToolUse, with_text
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


async def render_prompt(
    template: ChatTemplateRenderer | None,
    entries: Sequence[ConversationEntry] | str,
    read_messages: Callable[[], Sequence[Mapping[str, Any]]],
    tools: ToolUse | None = None,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """Render the prompt for the next message of the assistant. `entries` is the conversation as the
    client sent it, and `read_messages` converts it to messages. The conversion of a conversation
    with many entries runs in a thread. `variables` are additional variables of the template.

    The role `developer` becomes `system`, unless the template contains the name `developer`. A
    message without content has an empty text. If it has tool calls and the template does not read
    them, its text is the JSON of the calls, as in TGI. If the template does not use the tools, they
    are appended to the last message, as in TGI.

    Raises `TemplateError` and the errors of `read_messages`. Raises `ValidationError` if a message
    contains media, and `RejectionError` if the content of a message has no known schema.
    """
    prepare = partial(_prepared, template, read_messages, tools)
    is_large = _has_many_entries(entries) or (tools is not None and tools.is_large)
    messages, objects = await asyncio.to_thread(prepare) if is_large else prepare()
    assert template is not None, "the preparation fails without a template"
    return await template.render(messages, objects, variables)


def _has_many_entries(entries: Sequence[ConversationEntry] | str) -> bool:
    """Whether the conversion to messages takes so long that it must not run in the event loop."""
    if isinstance(entries, str):
        return False
    return len(entries) > _MANY_ENTRIES or any(
        isinstance(entry.content, list) and len(entry.content) > _MANY_ENTRIES for entry in entries
    )


def _prepared(
    template: ChatTemplateRenderer | None,
    read_messages: Callable[[], Sequence[Mapping[str, Any]]],
    tools: ToolUse | None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """Return the messages and the tools for the template. The tools are None if the template does
    not use them.
    """
    messages = read_messages()
    for index, message in enumerate(messages):
        _check_content(message, index)
    if template is None:
        raise TemplateError("template not found")
    traits = template.traits(has_tools=tools is not None)
    prepared = prepared_messages(messages, traits)
    if tools is None:
        return prepared, None
    if not traits.uses("tools"):
        return with_text(prepared, tools.prompt_text()), []
    if tools.prompt:
        prepared = with_text(prepared, f"\n---\n{tools.prompt}")
    return prepared, tools.template_objects()


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
