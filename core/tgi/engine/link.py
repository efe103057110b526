"""The framing of messages between front end and engine, and the engine's side of the socket.

A frame is a four-byte little-endian length followed by a msgpack message. The engine's end uses
blocking calls, because the engine loop has a single thread.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterator
from typing import Generic, TypeVar, final

import msgspec

from tgi.engine.messages import EngineMessage, FrontendMessage, Progress

__all__ = [
    "MAX_FRAME_BYTES",
    "EngineReporter",
    "FrameReader",
    "SocketConnection",
    "encode_frame",
    "engine_message_reader",
    "frontend_message_reader",
]

MAX_FRAME_BYTES = 1 << 28
"""Maximum length of a frame in bytes, without the length field. If the length field contains a
larger number, the stream is corrupt.
"""

_READ_BYTES = 1 << 20
_PROGRESS_INTERVAL_NS = 100_000_000
_MILLISECONDS = 1e3

MessageT = TypeVar("MessageT")
_LENGTH = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()


def encode_frame(message: FrontendMessage | EngineMessage) -> bytes:
    """Encode one message as a frame. Raises ValueError if the frame is too long."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {len(body)} bytes is longer than {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


@final
class FrameReader(Generic[MessageT]):
    """Splits a byte stream into frames and decodes their messages."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[MessageT]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[MessageT]:
        """Append `data` to the buffer, and yield the messages that are complete now. Raises
        ValueError if a length exceeds the limit, and `msgspec.DecodeError` if a message is
        malformed.
        """
        buffer = self._buffer
        buffer += data
        position = 0
        try:
            while len(buffer) - position >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(buffer, position)
                if length > MAX_FRAME_BYTES:
                    raise ValueError(f"a frame length of {length} bytes exceeds {MAX_FRAME_BYTES}")
                end = position + _LENGTH.size + length
                if len(buffer) < end:
                    break
                body = bytes(buffer[position + _LENGTH.size : end])
                position = end
                yield self._decoder.decode(body)
        finally:
            del buffer[:position]


def frontend_message_reader() -> FrameReader[FrontendMessage]:
    """Return a reader of the messages that the front end sends."""
    return FrameReader(msgspec.msgpack.Decoder(FrontendMessage))


def engine_message_reader() -> FrameReader[EngineMessage]:
    """Return a reader of the messages that the engine sends."""
    return FrameReader(msgspec.msgpack.Decoder(EngineMessage))


@final
class SocketConnection:
    """Sends and receives frames over a connected stream socket."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._reader = frontend_message_reader()
        self._readable = select.poll()
        self._readable.register(connected, select.POLLIN)

    def receive(self, *, wait: bool) -> list[FrontendMessage]:
        """Return the messages that have arrived. If `wait` is set, wait for at least one message.
        Raises ConnectionError if the front end has closed the connection.
        """
        messages: list[FrontendMessage] = []
        # Usually no message has arrived. In this case a poll takes less time than a non-blocking
        # read that raises an exception.
        while (wait and not messages) or self._readable.poll(0):
            data = self._socket.recv(_READ_BYTES)
            if not data:
                raise ConnectionError("the front end closed the connection")
            messages.extend(self._reader.feed(data))
        return messages

    def is_quiet(self, seconds: float) -> bool:
        """Whether nothing arrives within `seconds`. Returns False as soon as something arrives."""
        return not self._readable.poll(seconds * _MILLISECONDS)

    def send(self, message: EngineMessage) -> None:
        """Send one message. Blocks while the socket buffer is full."""
        self._socket.sendall(encode_frame(message))


@final
class EngineReporter:
    """The `tgi.backend.WorkerReporter` in an engine process. It sends progress and log lines to the
    front end.
    """

    def __init__(self, connection: SocketConnection) -> None:
        self._connection = connection
        self._last_phase = ""
        self._last_ns = 0

    def progress(self, phase: str, done: int, total: int) -> None:
        """Send a progress report. Between the first and the last report of a phase, at most ten
        reports per second are sent.
        """
        now = time.monotonic_ns()
        has_output = (
            phase != self._last_phase
            or done >= total
            or now - self._last_ns >= _PROGRESS_INTERVAL_NS
        )
        if has_output:
            self._last_phase, self._last_ns = phase, now
            self._connection.send(Progress(phase, done, total))

    def log(self, message: str) -> None:
        """Send one log line for the operator."""
        self._connection.send(Progress("log", text=message))
