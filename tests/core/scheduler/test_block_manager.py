"""Which blocks are handed out where memory is taken with the first use."""

import pytest

from tgi.scheduler.block_manager import BlockManager, PrefixCache

NUM_BLOCKS = 100


@pytest.fixture
def use():
    """Makes a function that lets sequences of some blocks run one after the other, each known to
    the cache at its end.
    """

    def make(max_cached):
        cache = PrefixCache(4, b"k" * 32)
        manager = BlockManager(NUM_BLOCKS, cache, max_cached)

        def run(num_sequences, num_blocks, *, at_once=1):
            used = []
            for first in range(0, num_sequences, at_once):
                tables = [manager.allocate(num_blocks) for _ in range(at_once)]
                for table in tables:
                    for place, block in enumerate(table):
                        cache.insert(f"{num_sequences} {first} {table[0]} {place}".encode(), block)
                    used += table
                for table in tables:
                    manager.release(table)
                manager.check([])
            return used

        return run

    return make


def test_blocks_are_used_again_rather_than_ever_more_of_them(use):
    run = use(max_cached=10)
    assert len(set(run(200, 3))) == 13  # ten that are cached, and three in use


def test_all_are_used_where_they_cost_nothing(use):
    assert len(set(use(max_cached=None)(200, 3))) == NUM_BLOCKS


def test_as_many_stay_cached_as_were_used_at_once(use):
    run = use(max_cached=10)
    assert len(set(run(10, 3, at_once=10))) == 30
    assert len(set(run(200, 3))) == 33


def test_the_last_blocks_are_handed_out_when_they_are_needed(use):
    assert len(set(use(max_cached=10)(33, 3, at_once=33))) == 99
