"""Converts Anthropic's messages to the messages of a chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tgi.errors import ValidationError
from tgi.server.anthropic.schemas import ContentBlock, SharedFields

__all__ = ["chat_messages"]

Json = dict[str, Any]

_ROLES = ("user", "assistant")
_THOUGHTS = ("thinking", "redacted_thinking")
_FAILURE = "Error: "


def chat_messages(body: SharedFields) -> list[Json]:
    """Return the messages of a body. The results of tool calls are separate messages with the role
    `tool`. Raises `ValidationError` for an unknown role, and for a block that is not supported at
    its position.
    """
    messages: list[Json] = []
    if body.system:
        messages.append({"role": "system", "content": _text(body.system, "system")})
    for index, message in enumerate(body.messages):
        if message.role not in _ROLES:
            raise ValidationError(
                f"`messages[{index}].role` must be one of {', '.join(_ROLES)}. Given:"
                f" {message.role}"
            )
        place = f"messages[{index}].content"
        if isinstance(message.content, str):
            messages.append({"role": message.role, "content": message.content})
        elif message.role == "assistant":
            messages.append(_assistant_message(message.content, place))
        else:
            messages += _user_messages(message.content, place)
    return messages


def _assistant_message(blocks: Sequence[ContentBlock], place: str) -> Json:
    calls = [_call(block, place) for block in blocks if block.type == "tool_use"]
    rest = [block for block in blocks if block.type not in ("tool_use", *_THOUGHTS)]
    message: Json = {"role": "assistant", "content": _text(rest, place)}
    # The chat template decides whether the prompt contains the thoughts of an earlier message.
    thinking = "".join(block.thinking or "" for block in blocks if block.type == "thinking")
    if thinking:
        message["reasoning_content"] = thinking
    if calls:
        message["tool_calls"] = calls
    return message


def _user_messages(blocks: Sequence[ContentBlock], place: str) -> list[Json]:
    results = [_result(block, place) for block in blocks if block.type == "tool_result"]
    rest = [block for block in blocks if block.type not in ("tool_result", *_THOUGHTS)]
    if results and not rest:
        return results
    return [*results, {"role": "user", "content": _text(rest, place)}]


def _call(block: ContentBlock, place: str) -> Json:
    if block.id is None or block.name is None or not isinstance(block.input, dict):
        raise ValidationError(
            f"a block of type `tool_use` in `{place}` must have an `id`, a `name` and an object as"
            " `input`"
        )
    function = {"name": block.name, "arguments": block.input}
    return {"id": block.id, "type": "function", "function": function}


def _result(block: ContentBlock, place: str) -> Json:
    if block.tool_use_id is None:
        raise ValidationError(
            f"a block of type `tool_result` in `{place}` must have a `tool_use_id`"
        )
    text = _result_text(block.content, place)
    return {
        "role": "tool",
        "tool_call_id": block.tool_use_id,
        "content": f"{_FAILURE}{text}" if block.is_error else text,
    }


def _result_text(content: object, place: str) -> str:
    match content:
        case None:
            return ""
        case str():
            return content
        case list():
            texts = [
                part["text"]
                for part in content
                if isinstance(part, dict)
                and part.get("type") == "text"
                and isinstance(part.get("text"), str)
            ]
            if len(texts) == len(content):
                return "".join(texts)
    raise ValidationError(
        f"only text is supported in the result of a tool in `{place}` by this version"
    )


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
