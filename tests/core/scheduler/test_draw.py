"""Random draws, compared with the published vectors of Philox4x32-10 (Random123, `kat_vectors`)."""

from __future__ import annotations

import numpy as np
import pytest

from tgi.scheduler.draw import philox4x32, uniform_draws

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([ONES] * 4, [ONES] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_equals_published_values(counter, key, expected):
    words = philox4x32(np.array([counter, counter], np.uint64).T, np.array([key, key], np.uint64).T)
    assert words.T.tolist() == [expected, expected]


def test_a_draw_depends_only_on_seed_and_index():
    seeds = np.array([5, 2**63 + 9, 5, 2**32 + 5], np.uint64)
    draws = uniform_draws(seeds, np.array([0, 1, 2, 0], np.uint64))
    assert draws.dtype == np.float32
    assert len(set(draws.tolist())) == 4
    alone = [
        uniform_draws(seeds[i : i + 1], np.array([n], np.uint64))[0]
        for i, n in enumerate([0, 1, 2, 0])
    ]
    assert draws.tolist() == alone


def test_draws_are_the_top_24_bits_in_the_unit_interval():
    draws = uniform_draws(np.zeros(4096, np.uint64), np.arange(4096, dtype=np.uint64))
    assert draws[0] == 0x6627E8 / 2**24
    assert draws.min() >= 0
    assert draws.max() < 1
    assert abs(draws.mean() - 0.5) < 0.02
