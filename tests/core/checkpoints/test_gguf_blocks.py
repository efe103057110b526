"""The blocks of GGUF files are converted to the canonical form bit for bit, compared with loops."""

import numpy as np
import pytest

from tests.core.checkpoints.gguf_blocks import DECODERS, random_rows
from tests.core.checkpoints.gguf_writer import TYPES
from tgi.checkpoints.gguf.block_types import BLOCK_TYPES, decode_rows


@pytest.mark.parametrize("kind", DECODERS)
def test_weights_are_those_of_plain_loops(kind):
    data, expected = random_rows(kind, (3, 512), np.random.default_rng(5))
    block_type = BLOCK_TYPES[TYPES[kind]]
    rows = np.frombuffer(data, np.uint8).reshape(3, -1)
    matrix = decode_rows(block_type, rows)
    np.testing.assert_array_equal(matrix.dequantize(), expected)
    assert matrix.codes.max() < 1 << block_type.format.bits
    assert matrix.scales.shape == (3, block_type.format.num_groups(512))
    assert (matrix.offsets is not None) == block_type.format.has_offsets
    # Some rows are the same rows of the whole matrix.
    np.testing.assert_array_equal(decode_rows(block_type, rows[1:2]).codes, matrix.codes[1:2])


def test_every_type_that_can_be_read_has_a_loop():
    quantized = {kind.name for kind in BLOCK_TYPES.values() if kind.format is not None}
    assert quantized == set(DECODERS)
