"""Converts the request body of `/v1/responses` to a request."""

from __future__ import annotations

from functools import partial
from typing import Any, final

from tgi.backend import SamplingParams
from tgi.errors import RequestError, ValidationError
from tgi.server.chat.prompt import render_prompt
from tgi.server.generation.parameters import (
    StopStyle,
    TextRequest,
    generate_parameters,
    reject_unsupported,
)
from tgi.server.generation.protocols import RESPONSES
from tgi.server.openai.responses_api_schemas import InputItem, ResponsesRequest
from tgi.server.state import ServerState

__all__ = ["StatelessError", "response_request"]

_TEXT_FORMAT = {"type": "text"}
_TEXT_PARTS = ("input_text", "output_text", "text")
_ROLES = ("user", "assistant", "system", "developer")


@final
class StatelessError(RequestError):
    """Error 400 for a request that refers to stored responses."""

    status = 400
    error_type = "invalid_request_error"

    def __init__(self, feature: str) -> None:
        super().__init__(
            f"{feature} is not supported, because this server does not store responses. Send the"
            ' whole conversation in `input`. Clients do so if they send `"store": false`.'
        )


async def response_request(body: ResponsesRequest, state: ServerState) -> TextRequest:
    """Convert a body to a request. Raises `RequestError` for an invalid or unsupported field."""
    if body.previous_response_id is not None or body.conversation is not None:
        name = "conversation" if body.previous_response_id is None else "previous_response_id"
        raise StatelessError(f"`{name}`")
    text_format = None if body.text is None else body.text.format
    reject_unsupported(
        {
            "prompt": body.prompt,
            "background": body.background,
            "tools": body.tools,
            "text.format": text_format not in (None, _TEXT_FORMAT),
            "truncation": body.truncation not in (None, "disabled"),
        }
    )
    parameters = generate_parameters(
        body,
        temperature=body.temperature,
        top_p=body.top_p,
        max_new_tokens=body.max_output_tokens,
        seed=body.seed,
        top_n_tokens=body.top_logprobs,
    )
    prompt = await render_prompt(state.chat_template, body.input, partial(_messages, body))
    return TextRequest(
        prompt,
        parameters,
        StopStyle.OPENAI,
        add_special_tokens=False,
        sampling=SamplingParams(logprobs="raw" if body.has_logprobs else "none"),
        protocol=RESPONSES,
    )


def _messages(body: ResponsesRequest) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*messages, {"role": "user", "content": body.input}]
    reasoning = ""
    for index, item in enumerate(body.input):
        if item.type == "reasoning":
            reasoning += _reasoning(item)
            continue
        message = _message(item, index)
        if reasoning and message["role"] == "assistant":
            # The chat template decides whether the prompt contains earlier reasoning.
            message["reasoning_content"] = reasoning
        messages.append(message)
        reasoning = ""
    return messages


def _reasoning(item: InputItem) -> str:
    """The reasoning of an earlier response, or its summary. It is empty if it is encrypted."""
    parts = next((parts for parts in (item.content, item.summary) if isinstance(parts, list)), [])
    return "".join(str(part["text"]) for part in parts if isinstance(part, dict) and "text" in part)


def _message(item: InputItem, index: int) -> dict[str, Any]:
    if item.type == "item_reference":
        raise StatelessError(f"`input[{index}]` of type `item_reference`")
    if item.type not in (None, "message"):
        raise ValidationError(
            f"`input[{index}]` of type `{item.type}` is not supported by this version: leave it out"
        )
    if item.role not in _ROLES:
        raise ValidationError(
            f"`input[{index}].role` must be one of {', '.join(_ROLES)}. Given: {item.role}"
        )
    if isinstance(item.content, str):
        return {"role": item.role, "content": item.content}
    if not isinstance(item.content, list):
        raise ValidationError(f"`input[{index}].content` must be a string or a list of parts")
    return {
        "role": item.role,
        "content": [{"type": "text", "text": _part_text(part, index)} for part in item.content],
    }


def _part_text(part: object, index: int) -> str:
    match part:
        case {"type": str() as kind, "text": str() as text} if kind in _TEXT_PARTS:
            return text
        case {"type": "refusal", "refusal": str() as text}:
            return text
    raise ValidationError(
        f"only text is supported in `input[{index}].content` by this version: remove images and"
        " files"
    )
