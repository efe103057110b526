"""Messages between the front end and the template process, each in one frame of `socket_frames`."""

from __future__ import annotations

import socket
import time
from typing import Any

import msgspec

from tgi.text.socket_frames import receive_body

__all__ = [
    "LoadTemplates",
    "Loaded",
    "Refused",
    "RenderTemplate",
    "Rendered",
    "TemplateReply",
    "TemplateRequest",
    "receive_reply",
    "receive_request",
]


class Frame(msgspec.Struct, array_like=True, frozen=True, tag=True):
    """The base class of the messages. The tag is the class name."""


class LoadTemplates(Frame, frozen=True):
    """The first message, which requests the compilation of `sources`. The limits apply until the
    process ends.
    """

    sources: dict[str, str]
    special_tokens: dict[str, str]
    limit_seconds: float  # per request
    limit_bytes: int  # address space in addition to the address space after the imports


class RenderTemplate(Frame, frozen=True):
    """Request to render the template with the name `name`."""

    name: str
    messages: list[dict[str, Any]]
    tools: list[Any] | None = None
    variables: dict[str, Any] = {}


class Loaded(Frame, frozen=True):
    """The reply if all sources have been compiled."""


class Rendered(Frame, frozen=True):
    """The rendered prompt."""

    text: str


class Refused(Frame, frozen=True):
    """The reply if a source cannot be compiled, or if rendering failed."""

    reason: str


TemplateRequest = LoadTemplates | RenderTemplate
TemplateReply = Loaded | Rendered | Refused

_REQUESTS: msgspec.msgpack.Decoder[TemplateRequest] = msgspec.msgpack.Decoder(TemplateRequest)
_REPLIES: msgspec.msgpack.Decoder[TemplateReply] = msgspec.msgpack.Decoder(TemplateReply)


def receive_request(connection: socket.socket) -> TemplateRequest:
    """Receive the next request. Raises EOFError if the front end has closed the socket."""
    return _REQUESTS.decode(receive_body(connection))


def receive_reply(connection: socket.socket, limit_seconds: float) -> TemplateReply:
    """Receive the reply. Raises EOFError if the process has ended, or TimeoutError after
    `limit_seconds`.
    """
    return _REPLIES.decode(receive_body(connection, time.monotonic() + limit_seconds))
