"""Messages between the front end and the template process.

Each message is sent over a socket as a four-byte length and a msgpack body.
"""

from __future__ import annotations

import socket
import time
from typing import Any

import msgspec

__all__ = [
    "LoadTemplates",
    "Loaded",
    "Refused",
    "RenderTemplate",
    "Rendered",
    "TemplateReply",
    "TemplateRequest",
    "encode_frame",
    "receive_reply",
    "receive_request",
]

_LENGTH_BYTES = 4
_READ_BYTES = 1 << 16


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


def encode_frame(message: Frame) -> bytes:
    """Encode one message with its length."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body


def receive_request(connection: socket.socket) -> TemplateRequest:
    """Receive the next request. Raises EOFError if the front end has closed the socket."""
    return _REQUESTS.decode(_receive_body(connection, None))


def receive_reply(connection: socket.socket, limit_seconds: float) -> TemplateReply:
    """Receive the reply. Raises EOFError if the process has ended, or TimeoutError after
    `limit_seconds`.
    """
    return _REPLIES.decode(_receive_body(connection, time.monotonic() + limit_seconds))


def _receive_body(connection: socket.socket, deadline: float | None) -> bytes:
    length = int.from_bytes(_receive(connection, _LENGTH_BYTES, deadline), "little")
    return _receive(connection, length, deadline)


def _receive(connection: socket.socket, num_bytes: int, deadline: float | None) -> bytes:
    received = bytearray()
    while len(received) < num_bytes:
        if deadline is not None:
            rest = deadline - time.monotonic()
            if rest <= 0:
                raise TimeoutError
            connection.settimeout(rest)
        part = connection.recv(min(_READ_BYTES, num_bytes - len(received)))
        if not part:
            raise EOFError
        received += part
    return bytes(received)
