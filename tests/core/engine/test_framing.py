"""The reader returns complete messages, regardless of how the bytes are split."""

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi.backend import SamplingParams
from tgi.engine.link import MAX_FRAME_BYTES, encode_frame, frontend_message_reader
from tgi.engine.messages import AbortSequence, AddSequence, CheckHealth, Shutdown
from tgi.scheduler import Request

MESSAGES = [
    AddSequence(1, Request("r", [1, 2, 3], SamplingParams(), 2**64 - 1, 5, (0,)), [7]),
    AbortSequence(1),
    CheckHealth(4, deep=True),
    Shutdown(),
]


@given(st.lists(st.sampled_from(MESSAGES), max_size=6), st.data())
def test_any_split_yields_the_same_messages(messages, data):
    stream = b"".join(map(encode_frame, messages))
    reader, received, position = frontend_message_reader(), [], 0
    while position < len(stream):
        size = data.draw(st.integers(1, len(stream) - position))
        received += reader.feed(stream[position : position + size])
        position += size
    assert received == messages


def test_a_length_above_the_limit_is_rejected():
    with pytest.raises(ValueError, match="exceeds"):
        list(frontend_message_reader().feed(struct.pack("<I", MAX_FRAME_BYTES + 1)))


@pytest.mark.parametrize(
    "body",
    [
        b"\xc1",
        msgspec.msgpack.encode(["NoSuchMessage"]),
        msgspec.msgpack.encode(["AbortSequence", "x"]),
    ],
)
def test_invalid_content_is_rejected(body):
    with pytest.raises(msgspec.DecodeError):
        list(frontend_message_reader().feed(struct.pack("<I", len(body)) + body))
