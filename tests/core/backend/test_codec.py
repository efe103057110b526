"""Encoding and decoding of records, also between an older and a newer version of a record."""

import msgspec
import numpy as np
import pytest

from tgi.backend import (
    NewSequence,
    Record,
    RowError,
    Rows,
    SamplingParams,
    SchedulerOutput,
    decode,
    encode,
)


def rows(n):
    ints = np.arange(n, dtype=np.int32)
    return Rows(
        ints, ints, ints, ints, ints.astype(np.uint8), ints.astype(np.float32), [ints], [ints]
    )


def test_a_step_is_equal_after_encoding_and_decoding():
    tokens = np.array([5, 6, 7], np.int32)
    new = NewSequence(
        1, "request", tokens, 3, 0, [tokens], SamplingParams(top_k=3, logit_bias=((1, 0.5),))
    )
    step = SchedulerOutput(9, [4], [new], rows(3))
    back = decode(SchedulerOutput, encode(step))
    assert back.step_id == 9
    assert back.dropped == [4]
    assert back.added[0].sampling == new.sampling
    np.testing.assert_array_equal(back.added[0].tokens, tokens)
    for name in ("sequence", "start", "count", "tokens", "sample", "draw"):
        sent, received = getattr(step.rows, name), getattr(back.rows, name)
        assert received.dtype == sent.dtype
        np.testing.assert_array_equal(received, sent)


def test_records_are_append_only():
    class Newer(Record, frozen=True):
        sequence: int
        message: str
        hint: str = "none"

    assert decode(RowError, encode(Newer(1, "m", "h"))) == RowError(1, "m")
    assert decode(Newer, encode(RowError(1, "m"))) == Newer(1, "m", "none")


def test_objects_of_other_types_are_rejected():
    with pytest.raises(TypeError, match="float64 cannot be encoded"):
        encode(Rows(*[np.zeros(1)] * 6, [], []))
    with pytest.raises(TypeError, match="object cannot be encoded"):
        encode([object()])


def test_invalid_bytes_are_rejected():
    data = bytearray(encode(rows(2)))
    with pytest.raises(msgspec.DecodeError):
        decode(Rows, bytes(data[:-3]))
    with pytest.raises(msgspec.ValidationError, match="array dtype"):
        decode(Rows, encode([["<f8", [1], b"\0" * 8]] * 6 + [[], []]))
