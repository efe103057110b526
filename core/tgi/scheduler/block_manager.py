"""Hands out blocks of the paged cache, counts who holds them, and finds blocks whose content is
already computed.

A block's content is known by a 128-bit hash chained over everything that its keys and values depend
on: the blocks before it, its tokens, adapter, media and salt. The hash is keyed with bytes drawn at
random per process, so that nobody outside can construct a collision.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import final

__all__ = ["HASH_KEY_BYTES", "BlockContext", "BlockManager", "PrefixCache"]

HASH_KEY_BYTES = 32
_DIGEST_BYTES = 16


@final
class BlockContext:
    """The facts that the keys and values of a sequence's blocks depend on, besides its tokens."""

    def __init__(
        self, block_size: int, adapter: bytes, salt: bytes, media: Sequence[tuple[int, bytes]] = ()
    ) -> None:
        """`adapter` is the digest of the adapter's content, empty for the model alone. `media` has
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
    """Hash to block and back. Only full, computed blocks enter; the block manager takes them out
    when it hands them to others.
    """

    def __init__(self, block_size: int, hash_key: bytes) -> None:
        self._block_size = block_size
        self._hash_key = hash_key
        self._blocks: dict[bytes, int] = {}
        self._hashes: dict[int, bytes] = {}

    def __contains__(self, block: int) -> bool:
        """Whether the content of `block` can be found."""
        return block in self._hashes

    def __len__(self) -> int:
        """Blocks that can be found."""
        return len(self._hashes)

    def extend_hashes(
        self,
        hashes: list[bytes],
        token_ids: list[int],
        num_blocks: int,
        extra: Callable[[int], bytes],
    ) -> None:
        """Append to `hashes` until it covers the first `num_blocks` full blocks of `token_ids`.
        `extra` returns, for a block's index, the bytes that identify everything else that its keys
        and values depend on.
        """
        size = self._block_size
        parent = hashes[-1] if hashes else bytes(_DIGEST_BYTES)
        for index in range(len(hashes), num_blocks):
            tokens = array("i", token_ids[index * size : (index + 1) * size])
            parent = self._digest(parent + tokens.tobytes() + extra(index))
            hashes.append(parent)

    def find(self, hashes: list[bytes]) -> list[int]:
        """Blocks of the longest known beginning of the chain."""
        found = []
        for block_hash in hashes:
            block = self._blocks.get(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    def insert(self, block_hash: bytes, block: int) -> None:
        """Make a computed block known. Of two blocks with the same content the first one stays."""
        if block_hash not in self._blocks:
            self._blocks[block_hash] = block
            self._hashes[block] = block_hash

    def forget(self, block: int) -> None:
        """The content of a known block is about to be overwritten."""
        del self._blocks[self._hashes.pop(block)]

    def check(self) -> None:
        """Both directions agree."""
        assert self._blocks == {h: b for b, h in self._hashes.items()}, (
            "prefix cache: hashes and blocks disagree"
        )

    def _digest(self, data: bytes) -> bytes:
        return blake2b(data, digest_size=_DIGEST_BYTES, key=self._hash_key).digest()


@final
class BlockManager:
    """Blocks 0 … `num_blocks` - 1. A block is used (somebody holds it), cached (nobody holds it,
    its content is known) or free.

    Free blocks are handed out first, then cached ones, least recently released first. `max_cached`
    is given where blocks take memory with their first use: those never used are left alone while
    more than that, and than were ever used at once, are cached.
    """

    def __init__(
        self,
        num_blocks: int,
        prefix_cache: PrefixCache | None = None,
        max_cached: int | None = None,
    ) -> None:
        self.num_blocks = num_blocks
        self._prefix_cache = prefix_cache
        self._max_cached = num_blocks if max_cached is None else max_cached
        self._num_touched = 0  # blocks from here on were never used
        self._ref_counts = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def num_free(self) -> int:
        """Blocks nobody holds, cached ones included."""
        return len(self._free) + len(self._cached)

    @property
    def num_cached(self) -> int:
        """Blocks nobody holds whose content the prefix cache knows."""
        return len(self._cached)

    @property
    def num_used(self) -> int:
        """Blocks somebody holds, shared ones counted once."""
        return self.num_blocks - self.num_free

    def num_held(self, blocks: Iterable[int]) -> int:
        """How many of `blocks` somebody already holds."""
        return sum(self._ref_counts[block] > 0 for block in blocks)

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks; the caller has seen that `num_free` suffices."""
        blocks = [self._take() for _ in range(count)]
        for block in blocks:
            self._ref_counts[block] = 1
        self._max_cached = max(self._max_cached, self.num_used)
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """Hold blocks found in the prefix cache."""
        for block in blocks:
            if self._ref_counts[block] == 0:
                del self._cached[block]
            self._ref_counts[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Stop holding the blocks of one table. Its end is evicted before its beginning, which more
        prompts share.
        """
        for block in reversed(blocks):
            self._ref_counts[block] -= 1
            if self._ref_counts[block] == 0:
                if self._prefix_cache is not None and block in self._prefix_cache:
                    self._cached[block] = None
                else:
                    self._free.append(block)

    def is_free(self, block: int) -> bool:
        """Whether nobody holds a block and the prefix cache does not know its content."""
        return self._ref_counts[block] == 0 and block not in self._cached

    def forget_cached(self) -> None:
        """Free the cached blocks: their content is lost."""
        while self._cached:
            self._free.append(self._evict())

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Used + cached + free = all, reference counts equal the holders in `tables`, and cached =
        known and not held.
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
            assert all(block in self._prefix_cache for block in self._cached), (
                "a cached block is unknown to the prefix cache"
            )
            assert not any(block in self._prefix_cache for block in self._free), (
                "a free block is known to the prefix cache"
            )

    def _take(self) -> int:
        # Those that were never used lie below all others, the lowest on top.
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
        self._prefix_cache.forget(block)
        return block
