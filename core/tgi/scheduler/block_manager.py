"""Allocates the blocks of the paged cache, counts the references to each block, and finds blocks
whose content is already computed (prefix caching).

The content of a block is identified by a 128-bit hash. The hash covers all inputs of the block's
keys and values: the hash of the preceding block, the tokens, the adapter, the media and the salt.
The hash is keyed with random bytes that differ in each process, so that clients cannot construct a
collision.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence, Set
from hashlib import blake2b
from typing import final

__all__ = ["HASH_KEY_BYTES", "BlockContext", "BlockManager", "PrefixCache"]

HASH_KEY_BYTES = 32
_DIGEST_BYTES = 16


@final
class BlockContext:
    """The inputs besides the tokens that determine the keys and values of a sequence's blocks."""

    def __init__(
        self, block_size: int, adapter: bytes, salt: bytes, media: Sequence[tuple[int, bytes]] = ()
    ) -> None:
        """`adapter` is the digest of the adapter's content, empty for the base model. `media` has
        the first position and the digest of each medium, in ascending order.
        """
        self._block_size = block_size
        self._media = media
        self._shared = array("q", (len(adapter), len(salt))).tobytes() + adapter + salt

    def extra(self, block_index: int) -> bytes:
        """The bytes that identify the context of a block: adapter, salt, and the media that overlap
        or precede the block.
        """
        if not self._media:
            return self._shared
        end = (block_index + 1) * self._block_size
        media = [(start, digest) for start, digest in self._media if start < end]
        numbers = [number for start, digest in media for number in (start, len(digest))]
        digests = b"".join(digest for _, digest in media)
        return self._shared + array("q", numbers).tobytes() + digests


@final
class PrefixCache:
    """The map between hashes and blocks. Only full, computed blocks are inserted. The block manager
    removes a block before it allocates the block to another sequence.
    """

    def __init__(self, block_size: int, hash_key: bytes) -> None:
        self._block_size = block_size
        self._hash_key = hash_key
        self._blocks: dict[bytes, int] = {}
        self._hashes: dict[int, bytes] = {}

    def __contains__(self, block: int) -> bool:
        """Whether `block` is in the prefix cache."""
        return block in self._hashes

    def __len__(self) -> int:
        """Number of blocks in the prefix cache."""
        return len(self._hashes)

    @property
    def blocks(self) -> Set[int]:
        """The blocks in the prefix cache."""
        return self._hashes.keys()

    def extend_hashes(
        self,
        hashes: list[bytes],
        token_ids: list[int],
        num_blocks: int,
        extra: Callable[[int], bytes],
    ) -> None:
        """Append to `hashes` until it covers the first `num_blocks` full blocks of `token_ids`.
        `extra` is called with the index of a block and returns the bytes that identify the block's
        context (`BlockContext.extra`).
        """
        size = self._block_size
        parent = hashes[-1] if hashes else bytes(_DIGEST_BYTES)
        for index in range(len(hashes), num_blocks):
            tokens = array("i", token_ids[index * size : (index + 1) * size])
            parent = self._digest(parent + tokens.tobytes() + extra(index))
            hashes.append(parent)

    def find(self, hashes: list[bytes]) -> list[int]:
        """Return the cached blocks of the longest prefix of `hashes`."""
        found = []
        for block_hash in hashes:
            block = self._blocks.get(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    def get(self, block_hash: bytes) -> int | None:
        """Return the cached block with this hash, or None."""
        return self._blocks.get(block_hash)

    def insert(self, block_hash: bytes, block: int) -> None:
        """Insert a computed block. If the cache already contains a block with the same content,
        this method has no effect.
        """
        if block_hash not in self._blocks:
            self._blocks[block_hash] = block
            self._hashes[block] = block_hash

    def forget(self, block: int) -> bytes:
        """Remove a block whose content will be overwritten. Returns its hash."""
        block_hash = self._hashes.pop(block)
        del self._blocks[block_hash]
        return block_hash

    def check(self) -> None:
        """Raise AssertionError if the two directions of the map disagree."""
        assert self._blocks == {h: b for b, h in self._hashes.items()}, (
            "prefix cache: hashes and blocks disagree"
        )

    def _digest(self, data: bytes) -> bytes:
        return blake2b(data, digest_size=_DIGEST_BYTES, key=self._hash_key).digest()


@final
class BlockManager:
    """Manages blocks 0 … `num_blocks` - 1. A block is used (it has references), cached (it has no
    reference, but its content is in the prefix cache) or free.

    Free blocks are allocated first. Then cached blocks are evicted, the least recently released
    block first. `max_cached` is set if the memory of a block is allocated at its first use. If the
    number of cached blocks then exceeds both `max_cached` and the maximum number of blocks that
    were used at once, a cached block is evicted before a block is used for the first time.
    `on_evict` is called with the hash of each block that is evicted.
    """

    def __init__(
        self,
        num_blocks: int,
        prefix_cache: PrefixCache | None = None,
        max_cached: int | None = None,
        on_evict: Callable[[bytes], None] | None = None,
    ) -> None:
        self._on_evict = on_evict
        self.num_blocks = num_blocks
        self._prefix_cache = prefix_cache
        self._max_cached = num_blocks if max_cached is None else max_cached
        self._num_touched = 0  # blocks with this index or a higher one were never used
        self._ref_counts = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def num_free(self) -> int:
        """Number of blocks without references, including cached blocks."""
        return len(self._free) + len(self._cached)

    @property
    def num_cached(self) -> int:
        """Number of blocks without references whose content is in the prefix cache."""
        return len(self._cached)

    @property
    def num_used(self) -> int:
        """Number of blocks with references. A shared block counts once."""
        return self.num_blocks - self.num_free

    def num_held(self, blocks: Iterable[int]) -> int:
        """Return the number of `blocks` that already have references."""
        return sum(self._ref_counts[block] > 0 for block in blocks)

    def allocate(self, count: int) -> list[int]:
        """Allocate `count` blocks. The caller has checked that `num_free` is large enough."""
        blocks = [self._take() for _ in range(count)]
        for block in blocks:
            self._ref_counts[block] = 1
        self._max_cached = max(self._max_cached, self.num_used)
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """Add a reference to each of `blocks`, which were found in the prefix cache."""
        for block in blocks:
            if self._ref_counts[block] == 0:
                del self._cached[block]
            self._ref_counts[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Remove the references of one block table. The last blocks of the table are evicted before
        the first ones, because more prompts share the first ones.
        """
        for block in reversed(blocks):
            self._ref_counts[block] -= 1
            if self._ref_counts[block] == 0:
                if self._prefix_cache is not None and block in self._prefix_cache:
                    self._cached[block] = None
                else:
                    self._free.append(block)

    def is_free(self, block: int) -> bool:
        """Whether a block has no references and its content is not in the prefix cache."""
        return self._ref_counts[block] == 0 and block not in self._cached

    def forget(self, block: int) -> None:
        """Remove a block from the prefix cache. If it has no references, it is free."""
        if self._prefix_cache is not None:
            self._prefix_cache.forget(block)
        if self._ref_counts[block] == 0:
            del self._cached[block]
            self._free.append(block)

    def forget_cached(self) -> None:
        """Free all cached blocks, because their content is lost."""
        while self._cached:
            self._free.append(self._evict())

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Raise AssertionError if a block has no state or two states, if the reference counts do
        not match `tables`, if the prefix cache contains a free block, or if a cached block is
        missing in the prefix cache.
        """
        holders = Counter(block for table in tables for block in table)
        counted = {block: count for block, count in enumerate(self._ref_counts) if count}
        assert counted == dict(holders), (
            f"reference counts {counted} differ from the tables' {dict(holders)}"
        )
        blocks = sorted([*self._free, *self._cached, *counted])
        assert blocks == list(range(self.num_blocks)), (
            f"blocks are lost or in two places: {blocks} of {self.num_blocks}"
        )
        if self._prefix_cache is not None:
            self._prefix_cache.check()
            known = self._prefix_cache.blocks
            assert self._cached.keys() <= known, "a cached block is unknown to the prefix cache"
            assert known.isdisjoint(self._free), "a free block is known to the prefix cache"

    def _take(self) -> int:
        # Blocks that were never used are at the bottom of the stack, with the lowest index on top.
        if not self._free or (
            self._free[-1] >= self._num_touched and len(self._cached) > self._max_cached
        ):
            return self._evict()
        block = self._free.pop()
        self._num_touched = max(self._num_touched, block + 1)
        return block

    def _evict(self) -> int:
        block, _ = self._cached.popitem(last=False)
        assert self._prefix_cache is not None
        block_hash = self._prefix_cache.forget(block)
        if self._on_evict is not None:
            self._on_evict(block_hash)
        return block
