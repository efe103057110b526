"""Frames that the front end exchanges with its child processes over a socket: a four-byte length
and a msgpack body.
"""

from __future__ import annotations

import socket
import time

import msgspec

__all__ = ["encode_frame", "receive_body"]

_LENGTH_BYTES = 4
_READ_BYTES = 1 << 18


def encode_frame(message: msgspec.Struct) -> bytes:
    """Encode one message with its length."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body


def receive_body(connection: socket.socket, deadline: float | None = None) -> bytearray:
    """Receive the body of the next frame. `deadline` is a time of `time.monotonic`.

    Raises EOFError if the other process has closed the socket, and TimeoutError at the deadline.
    """
    length = int.from_bytes(_receive(connection, _LENGTH_BYTES, deadline), "little")
    return _receive(connection, length, deadline)


def _receive(connection: socket.socket, num_bytes: int, deadline: float | None) -> bytearray:
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
    return received
