"""Messages between the front end and the tokenizer process.

Each message is sent over a socket as a four-byte length and a msgpack body.
"""

from __future__ import annotations

import enum
import socket

import msgspec

__all__ = [
    "TokenizeText",
    "TokenizeWork",
    "TokenizedText",
    "receive_result",
    "receive_work",
    "send_frame",
]

_LENGTH_BYTES = 4
_READ_BYTES = 1 << 18


class TokenizeWork(enum.Enum):
    """The result that the front end needs."""

    ENCODE = "encode"  # the ids
    COUNT = "count"  # the number of ids only
    FORMAT = "format"  # the tokens with their positions, as JSON


class TokenizeText(msgspec.Struct, array_like=True, frozen=True):
    """A text to tokenize. The parameters are those of `Tokenizer.encode`."""

    work: TokenizeWork
    text: str
    add_special_tokens: bool
    truncate: int | None = None


class TokenizedText(msgspec.Struct, array_like=True, frozen=True):
    """The number of tokens, the ids or the JSON, or the reason for which the text cannot be
    tokenized. Ids are one block of int32 in the byte order of the machine.

    JSON is sent in several messages, because the front end decodes a message in one call, which
    holds the interpreter lock.
    """

    num_tokens: int = 0
    blocks: list[bytes] = []
    error: str = ""
    is_last: bool = True


_WORK = msgspec.msgpack.Decoder(TokenizeText)
_RESULT = msgspec.msgpack.Decoder(TokenizedText)


def send_frame(connection: socket.socket, message: TokenizeText | TokenizedText) -> None:
    """Send one message. Raises OSError if the other process has ended."""
    body = msgspec.msgpack.encode(message)
    connection.sendall(len(body).to_bytes(_LENGTH_BYTES, "little"))
    connection.sendall(body)


def receive_work(connection: socket.socket) -> TokenizeText:
    """Receive a request. Raises EOFError if the front end has closed the socket."""
    return _WORK.decode(_receive_body(connection))


def receive_result(connection: socket.socket) -> TokenizedText:
    """Receive a reply. Raises EOFError or OSError if the process has ended."""
    return _RESULT.decode(_receive_body(connection))


def _receive_body(connection: socket.socket) -> bytearray:
    return _receive(connection, int.from_bytes(_receive(connection, _LENGTH_BYTES), "little"))


def _receive(connection: socket.socket, num_bytes: int) -> bytearray:
    received = bytearray()
    while len(received) < num_bytes:
        part = connection.recv(min(_READ_BYTES, num_bytes - len(received)))
        if not part:
            raise EOFError
        received += part
    return received
