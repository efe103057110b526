"""Messages to bytes and back: a four-byte little-endian length, then msgpack."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Generic, TypeVar, final

import msgspec

from tgi.engine.messages import EngineMessage, FrontendMessage

__all__ = [
    "MAX_FRAME_BYTES",
    "FrameReader",
    "encode_frame",
    "engine_message_reader",
    "frontend_message_reader",
]

MAX_FRAME_BYTES = 1 << 28
"""No frame is longer; a greater length means that the stream is out of step."""

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
