"""The choice of free blocks, with and without a limit on the number of cached blocks."""

import pytest

from tgi.scheduler.block_manager import BlockContext, BlockManager, PrefixCache

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


def hashes_of(context, tokens=(7,) * 12):
    hashes = []
    PrefixCache(4, b"k" * 32).extend_hashes(hashes, list(tokens), 3, context.extra)
    return hashes


def num_shared(one, other):
    pairs = zip(hashes_of(one), hashes_of(other), strict=True)
    return sum(first == second for first, second in pairs)


def test_blocks_are_shared_only_in_the_same_context():
    contexts = [(b"", b""), (b"a", b""), (b"", b"a"), (b"b", b""), (b"a", b"b"), (b"ab", b"")]
    for one in contexts:
        for other in contexts:
            shared = num_shared(BlockContext(4, *one), BlockContext(4, *other))
            assert shared == (3 if one == other else 0), (one, other)


@pytest.mark.parametrize(
    ("media", "shared"),
    [
        ([], 1),  # the first block ends before the medium
        ([(5, b"m")], 3),
        ([(5, b"n")], 1),
        ([(6, b"m")], 1),
        ([(5, b"m"), (9, b"n")], 2),
        ([(3, b"m")], 0),
        ([(5, b"m"), (12, b"n")], 3),  # after the last block
    ],
)
def test_blocks_depend_on_the_media_that_overlap_or_precede_them(media, shared):
    reference = BlockContext(4, b"", b"", [(5, b"m")])
    assert num_shared(reference, BlockContext(4, b"", b"", media)) == shared


def test_cached_blocks_are_forgotten():
    cache = PrefixCache(4, b"k" * 32)
    manager = BlockManager(4, cache)
    held, released = manager.allocate(1), manager.allocate(2)
    for block in (*held, *released):
        cache.insert(bytes([block]), block)
    manager.release(released)
    assert [manager.is_free(block) for block in range(4)] == [False, False, False, True]
    manager.forget_cached()
    manager.check([held])
    assert (manager.num_cached, len(cache)) == (0, 1)
    assert [manager.is_free(block) for block in range(4)] == [False, True, True, True]
