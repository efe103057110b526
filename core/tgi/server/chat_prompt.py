"""Messages to the one prompt that a model reads; every chat route goes through here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tgi.errors import TemplateError, ValidationError
from tgi.text import ChatTemplateRenderer

__all__ = ["render_prompt"]


async def render_prompt(template: ChatTemplateRenderer | None, messages: Sequence[Mapping[str, Any]]) -> str:
    """The prompt for the next answer. Raises `TemplateError`, and `ValidationError` for anything but text."""
    if template is None:
        raise TemplateError("template not found")
    if any(_has_media(message.get("content")) for message in messages):
        raise ValidationError("only text is supported in `messages` by this version: leave images and sound out")
    return await template.render(messages)


def _has_media(content: object) -> bool:
    parts = content if isinstance(content, list) else []
    return any(isinstance(part, dict) and part.get("type") not in (None, "text") for part in parts)
