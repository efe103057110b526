"""Finds blocks whose content is already computed.

A block is known by a 128-bit hash chained over everything its keys and values depend on: the blocks
before it, its tokens, adapter, media and tenant. The hash is keyed with bytes drawn at random per
process, so that nobody outside can construct a collision.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b
from typing import final

__all__ = ["HASH_KEY_BYTES", "PrefixCache"]

HASH_KEY_BYTES = 32
_DIGEST_BYTES = 16


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
        *,
        adapter: int,
        media: bytes = b"",
        tenant: bytes = b"",
    ) -> None:
        """Append to `hashes` until it covers the first `num_blocks` full blocks of `token_ids`."""
        size = self._block_size
        parent = hashes[-1] if hashes else self._root(adapter, media, tenant)
        for index in range(len(hashes), num_blocks):
            tokens = array("i", token_ids[index * size : (index + 1) * size])
            parent = self._digest(parent + tokens.tobytes())
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

    def _root(self, adapter: int, media: bytes, tenant: bytes) -> bytes:
        lengths = array("q", (adapter, len(media), len(tenant)))
        return self._digest(lengths.tobytes() + media + tenant)

    def _digest(self, data: bytes) -> bytes:
        return blake2b(data, digest_size=_DIGEST_BYTES, key=self._hash_key).digest()
