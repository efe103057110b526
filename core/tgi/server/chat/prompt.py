"""Renders chat messages to a prompt. All chat routes use this module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tgi.errors import TemplateError, ValidationError
from tgi.server.http.json_reader import RejectionError
from tgi.text import ChatTemplateRenderer

__all__ = ["render_prompt"]

_SHAPE = "Failed to deserialize the JSON body into the target type: "
_NO_VARIANT = "data did not match any variant of untagged enum MessageBody"
_MEDIA = frozenset({"image_url", "input_audio", "file", "image", "audio", "video_url"})


async def render_prompt(
    template: ChatTemplateRenderer | None, messages: Sequence[Mapping[str, Any]]
) -> str:
    """Render the messages to the prompt for the next message of the assistant.

    Raises `TemplateError`. Raises `ValidationError` if a message contains media, and
    `RejectionError` if the content of a message has no known schema.
    """
    for index, message in enumerate(messages):
        _check_content(message, index)
    if template is None:
        raise TemplateError("template not found")
    return await template.render(messages)


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
                    case {"type": "text", "text": str()}:
                        continue
                    case {"type": str() as kind} if kind in _MEDIA:
                        raise ValidationError(
                            "only text is supported in `messages` by this version: remove images"
                            " and audio"
                        )
                raise RejectionError(422, f"{_SHAPE}messages[{index}]: {_NO_VARIANT}")
        case _:
            raise RejectionError(422, f"{_SHAPE}messages[{index}]: {_NO_VARIANT}")
