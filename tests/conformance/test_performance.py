"""The performance card: its counts, and that it has no pass mark."""

from __future__ import annotations

import msgspec
import pytest

from tests.conformance.faults.steps import unannounced_compile
from tests.conformance.faults.wrappers import FaultyBackend, in_output
from tgi.testing.conformance import BackendUnderTest
from tgi.testing.conformance.performance import PerformanceCard, measure


def padded(output, step):
    """Run steps in shapes of 96 tokens for a prompt of 60, and of twice the rows for decoding."""
    num_tokens = step.rows.num_tokens
    shape = 0 if not num_tokens else 96 * num_tokens // 60 if step.added else 2 * num_tokens
    return msgspec.structs.replace(output, num_padded_tokens=shape)


def test_the_share_of_padding_is_reported(tmp_path):
    card = measure(BackendUnderTest("reference", in_output(padded), tmp_path))
    assert [figures.prefill_padding_ratio for figures in card.batches] == [pytest.approx(0.375)] * 2
    assert [figures.decode_padding_ratio for figures in card.batches] == [pytest.approx(0.5)] * 2


@pytest.mark.parametrize(
    ("backend", "num_compiled"), [(FaultyBackend(), 0), (in_output(unannounced_compile), 25)]
)
def test_batches_are_measured_and_compilations_counted(backend, num_compiled, tmp_path):
    card = measure(BackendUnderTest("reference", backend, tmp_path))
    assert [figures.num_sequences for figures in card.batches] == [1, 8]
    assert [figures.num_compiled for figures in card.batches] == [num_compiled] * 2
    for figures in card.batches:
        assert figures.tokens_per_second == pytest.approx(
            1000 * figures.num_sequences / figures.step_ms
        )
        assert 0 < figures.host_ms < figures.step_ms
        assert (figures.prefill_padding_ratio, figures.decode_padding_ratio) == (None, None)
    assert msgspec.json.decode(msgspec.json.encode(card), type=PerformanceCard) == card
