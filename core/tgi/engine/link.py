"""The link between front end and engine: frames of messages, and the engine's end of the socket.

A frame is a four-byte little-endian length, then msgpack. The engine's end makes plain blocking
calls, for a process that does one thing at a time.
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
"""No frame is longer; a greater length means that the stream is out of step."""

_READ_BYTES = 1 << 20
_PROGRESS_INTERVAL_NS = 100_000_000

MessageT = TypeVar("MessageT")
_LENGTH = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()


def encode_frame(message: FrontendMessage | EngineMessage) -> bytes:
    """One frame."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {len(body)} bytes is longer than {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


@final
class FrameReader(Generic[MessageT]):
    """Collects bytes as they come and gives out whole messages."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[MessageT]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[MessageT]:
        """Messages that `data` completes. Raises ValueError on a length above the limit,
        `msgspec.DecodeError` on bad content.
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
    """Reads what the front sends."""
    return FrameReader(msgspec.msgpack.Decoder(FrontendMessage))


def engine_message_reader() -> FrameReader[EngineMessage]:
    """Reads what the engine sends."""
    return FrameReader(msgspec.msgpack.Decoder(EngineMessage))


@final
class SocketConnection:
    """Frames over a connected stream socket."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._reader = frontend_message_reader()
        self._readable = select.poll()
        self._readable.register(connected, select.POLLIN)

    def receive(self, *, wait: bool) -> list[FrontendMessage]:
        """Messages that have come; with `wait`, at least one. Raises ConnectionError once the front
        is gone.
        """
        messages: list[FrontendMessage] = []
        # Nearly always there is nothing, and to ask costs less than the exception of a read that
        # finds nothing.
        while (wait and not messages) or self._readable.poll(0):
            data = self._socket.recv(_READ_BYTES)
            if not data:
                raise ConnectionError("the front closed the connection")
            messages.extend(self._reader.feed(data))
        return messages

    def send(self, message: EngineMessage) -> None:
        """Send one message, waiting while the front is behind."""
        self._socket.sendall(encode_frame(message))


@final
class EngineReporter:
    """What a worker may use of the engine (`tgi.backend.WorkerReporter`): it reports to the
    front.
    """

    def __init__(self, connection: SocketConnection) -> None:
        self._connection = connection
        self._last_phase = ""
        self._last_ns = 0

    def progress(self, phase: str, done: int, total: int) -> None:
        """Pass progress on; a flood of reports is thinned to ten a second."""
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
        """Pass one line for the operator on."""
        self._connection.send(Progress("log", text=message))
