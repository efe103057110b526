"""The choice of free blocks, with and without a limit on the number of cached blocks."""

import pytest

from tgi.scheduler.block_manager import BlockManager, PrefixCache

NUM_BLOCKS = 100


@pytest.fixture
def use():
    """Return a function that builds a block manager and returns a function `run`. `run` allocates
    blocks for sequences, inserts them into the prefix cache, releases them, and returns all blocks
    that were used.
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


def test_with_a_limit_blocks_are_reused_before_new_ones(use):
    run = use(max_cached=10)
    assert len(set(run(200, 3))) == 13  # Ten cached blocks, and three in use.


def test_without_a_limit_all_blocks_are_used(use):
    assert len(set(use(max_cached=None)(200, 3))) == NUM_BLOCKS


def test_as_many_blocks_stay_cached_as_were_in_use_at_once(use):
    run = use(max_cached=10)
    assert len(set(run(10, 3, at_once=10))) == 30
    assert len(set(run(200, 3))) == 33


def test_the_last_blocks_are_allocated_when_necessary(use):
    assert len(set(use(max_cached=10)(33, 3, at_once=33))) == 99
