"""Converts messages to the form that a chat template can read: roles, contents and tool calls."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tgi.errors import ValidationError
from tgi.server.chat.tools import CalledFunction
from tgi.server.http.json_format import format_json
from tgi.text.chat_template_traits import TemplateTraits

__all__ = ["prepared_messages"]

_SHORT_ID_LENGTH = 9

Json = dict[str, Any]


class ToolCallText(msgspec.Struct):
    """A tool call in the text of a message. The order of the fields is TGI's."""

    id: str
    type: str
    function: CalledFunction


def prepared_messages(messages: Sequence[Mapping[str, Any]], traits: TemplateTraits) -> list[Json]:
    """Return the messages with roles, contents and tool calls that the template can read.

    The name of a called function is added to its result, because some templates need the name.
    Raises `ValidationError` if the arguments of a tool call are not a JSON object.
    """
    names: dict[str, str] = {}  # by the id of the call
    prepared = []
    for index, message in enumerate(messages):
        changed = _prepared(message, traits, index)
        calls = changed.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            match call:
                case {"id": str() as call_id, "function": {"name": str() as name}}:
                    names[call_id] = name
        answered = changed.get("tool_call_id")
        if answered is not None:
            if traits.needs_short_ids:
                answered = changed["tool_call_id"] = _short_id(answered)
            if changed.get("name") is None and answered in names:
                changed["name"] = names[answered]
        prepared.append(changed)
    return prepared


def _prepared(message: Mapping[str, Any], traits: TemplateTraits, index: int) -> Json:
    prepared = dict(message)
    if prepared["role"] == "developer" and not traits.mentions("developer"):
        prepared["role"] = "system"
    content, calls = prepared.get("content"), prepared.get("tool_calls")
    refusal = prepared.pop("refusal", None)
    reads_calls = traits.mentions("tool_calls")
    if isinstance(content, list):
        prepared["content"] = [_text_part(part) for part in content]
    elif not content and calls and not reads_calls:
        prepared["content"] = _calls_as_text(calls)
    elif not content and calls and traits.tests_content:
        prepared["content"] = refusal
    elif content is None:
        prepared["content"] = refusal or ""
    if reads_calls and isinstance(calls, list):
        place = f"messages[{index}].tool_calls"
        prepared["tool_calls"] = [
            _prepared_call(call, traits, f"{place}[{number}]") for number, call in enumerate(calls)
        ]
    return prepared


def _text_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a part of the content as text. The text of a refusal is the refusal."""
    return {"type": "text", "text": part["refusal"]} if part["type"] == "refusal" else part


def _prepared_call(call: object, traits: TemplateTraits, place: str) -> object:
    """Return a tool call whose arguments are a JSON object, or a text if the template requires a
    text. A call without a function remains as it is.
    """
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        return call
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        arguments = _decoded(arguments, f"{place}.function.arguments")
    arguments = {} if arguments is None else arguments
    if traits.joins_arguments:
        arguments = format_json(arguments)
    prepared = {"type": "function", **call, "function": {**function, "arguments": arguments}}
    if traits.needs_short_ids and isinstance(call.get("id"), str):
        prepared["id"] = _short_id(call["id"])
    return prepared


def _decoded(arguments: str, field: str) -> Json:
    try:
        return msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        raise ValidationError(
            f"`{field}` must be the JSON text of an object. Given: `{arguments[:64]}`"
        ) from None


def _short_id(call_id: str) -> str:
    """Return an id of 9 letters and digits. Equal ids remain equal."""
    if len(call_id) == _SHORT_ID_LENGTH and call_id.isascii() and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:_SHORT_ID_LENGTH]


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
        CalledFunction(description, str(function.get("name", "")), format_json(arguments)),
    )
