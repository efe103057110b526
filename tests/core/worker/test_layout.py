"""The layout of a step against one that is computed token by token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi.backend import (
    TOKEN_ON_DEVICE,
    Limits,
    NewSequence,
    Rows,
    SamplingParams,
    StepError,
    empty_int32,
)
from tgi.worker.layout import fill_tokens, lay_out
from tgi.worker.sequences import SequenceTable

BLOCK_SIZE, VOCAB_SIZE = 4, 50
LIMITS = Limits(max_total_tokens=32, max_sequences=5, max_step_tokens=100)


def table_of(starts):
    """A table whose sequences have computed `starts` tokens each, in blocks in reverse order."""
    table = SequenceTable(LIMITS, BLOCK_SIZE, VOCAB_SIZE)
    for handle, start in enumerate(starts):
        blocks = np.arange(8 * handle + 7, 8 * handle - 1, -1, dtype=np.int32)
        tokens = np.arange(32, dtype=np.int32)
        new = NewSequence(handle, "r", tokens, 32, start, [blocks], SamplingParams())
        table.add(new)
    return table


def rows_of(starts, counts, tokens):
    n = len(starts)
    return Rows(
        np.arange(n, dtype=np.int32),
        np.array(starts, np.int32),
        np.array(counts, np.int32),
        np.array(tokens, np.int32),
        np.ones(n, np.uint8),
        np.zeros(n, np.float32),
        [np.zeros(n + 1, np.int32)],
        [empty_int32()],
    )


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 12)), min_size=1, max_size=5))
def test_each_token_is_where_its_sequence_has_it(sizes):
    starts, counts = zip(*sizes, strict=True)
    table = table_of(starts)
    on_device = [
        TOKEN_ON_DEVICE if i % 3 == 2 else start + i for start, count in sizes for i in range(count)
    ]
    rows = rows_of(starts, counts, on_device)
    layout = lay_out(rows, table)
    expected = [
        (row, start + i, (8 * row + 7 - (start + i) // BLOCK_SIZE) * BLOCK_SIZE + (start + i) % 4)
        for row, (start, count) in enumerate(sizes)
        for i in range(count)
    ]
    states = [layout.states[row].index for row, _, _ in expected]
    assert layout.token_indices.tolist() == states
    assert layout.positions.tolist() == [position for _, position, _ in expected]
    assert layout.slot_mapping.tolist() == [slot for _, _, slot in expected]
    assert layout.lengths.tolist() == [start + count for start, count in sizes]
    assert layout.num_blocks == max(-(-(start + count) // BLOCK_SIZE) for start, count in sizes)
    tokens = fill_tokens(rows.tokens, layout, table)
    assert tokens.tolist() == [position for _, position, _ in expected]


@pytest.mark.parametrize("token", [VOCAB_SIZE, -2])
def test_a_token_id_outside_the_vocabulary_is_rejected(token):
    table = table_of([0])
    rows = rows_of([0], [3], [1, token, 2])
    with pytest.raises(StepError, match="token id"):
        fill_tokens(rows.tokens, lay_out(rows, table), table)


def test_a_failed_sequence_is_laid_out_as_if_its_row_had_run():
    table = table_of([0, 4])
    table.mark_failed(rows_of([0], [5], range(5)))
    layout = lay_out(rows_of([5, 4], [1, 1], [5, 4]), table)
    assert [state.has_failed for state in layout.states] == [True, False]
    with pytest.raises(StepError, match="position"):
        lay_out(rows_of([4, 4], [1, 1], [5, 4]), table)
