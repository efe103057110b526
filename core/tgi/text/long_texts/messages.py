"""Messages between the front end and the tokenizer process, each in one frame of
`socket_frames`.
"""

from __future__ import annotations

import enum
import socket

import msgspec

from tgi.text.socket_frames import receive_body

__all__ = [
    "TokenizeText",
    "TokenizeWork",
    "TokenizedText",
    "receive_result",
    "receive_work",
]


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


def receive_work(connection: socket.socket) -> TokenizeText:
    """Receive a request. Raises EOFError if the front end has closed the socket."""
    return _WORK.decode(receive_body(connection))


def receive_result(connection: socket.socket) -> TokenizedText:
    """Receive a reply. Raises EOFError or OSError if the process has ended."""
    return _RESULT.decode(receive_body(connection))
