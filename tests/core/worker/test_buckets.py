"""The shapes to which steps are padded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi.backend import BackendError, Limits
from tgi.worker.buckets import Buckets, parse_token_buckets


@given(st.integers(1, 5000), st.integers(1, 300), st.integers(1, 9000), st.data())
def test_every_step_within_the_limits_has_a_shape(
    max_step_tokens, max_sequences, max_total_tokens, data
):
    limits = Limits(max_total_tokens, max_sequences, max(max_step_tokens, max_sequences))
    buckets = Buckets.of(limits, 32)
    num_tokens = data.draw(st.integers(1, limits.max_step_tokens))
    num_sequences = data.draw(st.integers(1, min(num_tokens, max_sequences)))
    num_blocks = data.draw(st.integers(1, -(-max_total_tokens // 32)))
    shape = buckets.shape_for(num_tokens, num_blocks)
    assert shape in buckets.shapes
    assert shape.num_sequences in buckets.rows
    assert (
        shape.num_tokens >= num_tokens
        and shape.num_sequences >= num_sequences
        and shape.num_blocks >= num_blocks
    )
    assert shape.num_tokens < 2 * num_tokens or shape.num_tokens == 16
    assert len(buckets.shapes) <= 10 * 5


def test_a_serving_configuration_has_few_shapes():
    buckets = Buckets.of(Limits(max_total_tokens=4096, max_sequences=128, max_step_tokens=1024), 32)
    assert buckets.tokens == (16, 32, 64, 128, 256, 512, 1024)
    assert buckets.blocks == (16, 32, 128)
    assert buckets.rows == (16, 32, 64, 128)


def test_bucket_sizes_from_the_option():
    limits = Limits(max_total_tokens=64, max_sequences=8, max_step_tokens=100)
    assert Buckets.of(limits, 32, parse_token_buckets("128, 8")).tokens == (8, 128)
    assert parse_token_buckets(" ") == ()
    with pytest.raises(BackendError, match="is 64, but a step may have 100 tokens"):
        Buckets.of(limits, 32, (64,))
    with pytest.raises(BackendError, match="The largest size of `--x-token-buckets` is 64"):
        Buckets.of(limits, 32, (64,), "--x-token-buckets")
    for text in ("a", "1,,2", "-4", "0"):
        with pytest.raises(BackendError, match="positive numbers"):
            parse_token_buckets(text)
