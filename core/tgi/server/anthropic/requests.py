"""Converts the request bodies of Anthropic's routes to requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tgi.backend import SamplingParams
from tgi.errors import ValidationError
from tgi.server.anthropic.schemas import (
    UNSUPPORTED_FIELDS,
    AnthropicMessage,
    ContentBlock,
    CountTokensRequest,
    MessagesRequest,
    SharedFields,
)
from tgi.server.chat.prompt import render_prompt
from tgi.server.generation.parameters import (
    StopStyle,
    TextRequest,
    generate_parameters,
    reject_unsupported,
)
from tgi.server.generation.protocols import ANTHROPIC
from tgi.server.state import ServerState

__all__ = ["message_prompt", "message_request"]

Json = dict[str, Any]

_ROLES = ("user", "assistant")
_THOUGHTS = ("thinking", "redacted_thinking")


async def message_request(body: MessagesRequest, state: ServerState) -> TextRequest:
    """Convert a body of `/v1/messages` to a request. Raises `RequestError` for an invalid or
    unsupported field.
    """
    prompt = await message_prompt(body, state)
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


async def message_prompt(body: MessagesRequest | CountTokensRequest, state: ServerState) -> str:
    """Render the prompt of a body. Raises `RequestError` for an invalid or unsupported field."""
    _reject_unsupported(body)
    entries = body.messages
    if isinstance(body.system, list):
        entries = [*entries, AnthropicMessage("user", body.system)]  # only its size matters
    return await render_prompt(state.chat_template, entries, partial(_messages, body))


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
