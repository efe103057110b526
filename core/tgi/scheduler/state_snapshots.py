"""Allocates the blocks of the cache group `state`, and shares the states of common prefixes.

A recurrent layer keeps one state per sequence, which contains the whole prefix. A later sequence
can continue from this prefix only if the state was copied at the end of the prefix. Such a copy is
a snapshot. It belongs to the block of tokens that ends at the same position, and it has the hash of
this block. A hit of the prefix cache therefore always ends at a snapshot.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import final

from tgi.backend import KVCachePlan, Limits
from tgi.scheduler.block_manager import BlockManager, PrefixCache
from tgi.scheduler.sequence import Sequence

__all__ = ["SeenPrefixes", "StateCopy", "StateSnapshots"]

# A snapshot is taken only if it saves the computation of at least this number of blocks, because it
# divides the prompt into one more row.
_MIN_BLOCKS = 4
_MAX_CHUNK_ENDS = 4  # snapshots of one prompt at the ends of its largest chunks
# The `max_cached` of `BlockManager` if the memory of a block is allocated at its first use. More
# snapshots are stored only in blocks that sequences have already used.
_KEPT_SNAPSHOTS = 16
_MAX_SEEN = 1 << 16


@final
@dataclass(slots=True, frozen=True)
class StateCopy:
    """A copy of a state before the rows of a step run. The copy either restores a snapshot for a
    new sequence, or takes a snapshot of a sequence.
    """

    source: int
    target: int
    # The sequence and its epoch if a snapshot is taken. None if a snapshot is restored.
    saved: tuple[Sequence, int] | None = None
    block_hash: bytes = b""  # the hash of the last block before the snapshot

    @property
    def snapshot(self) -> int:
        """The block of the snapshot."""
        return self.source if self.saved is None else self.target


@final
class SeenPrefixes:
    """The hashes of the blocks of recent prompts, at most `max_hashes`. The blocks may be evicted
    or not computed yet.
    """

    def __init__(self, max_hashes: int = _MAX_SEEN) -> None:
        self._max_hashes = max_hashes
        self._hashes: OrderedDict[bytes, None] = OrderedDict()

    def add(self, hashes: list[bytes]) -> int:
        """Add the hashes of a prompt. Returns the number of leading hashes that were known."""
        num_known = 0
        while num_known < len(hashes) and hashes[num_known] in self._hashes:
            num_known += 1
        # The first blocks are removed last, because more prompts share them.
        for block_hash in reversed(hashes):
            self._hashes[block_hash] = None
            self._hashes.move_to_end(block_hash)
        while len(self._hashes) > self._max_hashes:
            self._hashes.popitem(last=False)
        return num_known


@final
class StateSnapshots:
    """Manages the blocks 0 … `num_states` - 1 of the state groups. A block contains the state of a
    running sequence, or a snapshot, or it is free. If no block is free, the least recently used
    snapshot is evicted.

    Snapshots of a prompt are taken after its last full block, at the end of the blocks that it
    shares with a recent prompt, and at the ends of some of its largest chunks. The last token of a
    prompt is always computed, so the last full block ends before it. A snapshot is copied in the
    step with the sequence's next row. It can be restored after this step was collected.
    """

    def __init__(
        self,
        plan: KVCachePlan,
        limits: Limits,
        hash_key: bytes,
        has_block: Callable[[bytes], bool],
    ) -> None:
        """`has_block` returns whether the block of tokens with a hash is in the prefix cache. A
        snapshot without this block would never be used.
        """
        num_states = min(group.num_blocks for group in plan.groups if group.kind == "state")
        self.cache = PrefixCache(plan.block_size, hash_key)
        self._states = BlockManager(
            num_states, self.cache, _KEPT_SNAPSHOTS if plan.on_demand else None
        )
        self._block_size = plan.block_size
        self._has_block = has_block
        self._is_chunked = limits.chunked
        # Snapshots are a multiple of this number of blocks apart, so that the rows between them are
        # allowed chunks.
        self._step = math.lcm(plan.block_size, limits.chunk_multiple) // plan.block_size
        self._chunk = self._aligned(limits.max_step_tokens // plan.block_size)  # in blocks
        self._seen = SeenPrefixes()
        # Hashes of snapshots that a running sequence will take.
        self._claimed: set[bytes] = set()
        self._in_flight: Counter[int] = Counter()  # snapshots that steps in flight copy

    @property
    def num_free(self) -> int:
        """Number of blocks that a sequence can use, including evictable snapshots."""
        return self._states.num_free

    @property
    def num_cached(self) -> int:
        """Number of snapshots."""
        return self._states.num_cached

    def allocate(self) -> int:
        """Allocate the state of a sequence. The caller has checked that a block is free."""
        return self._states.allocate(1)[0]

    def release(self, state: int) -> None:
        """Release the state of a sequence."""
        self._states.release([state])

    def find(self, hashes: list[bytes]) -> tuple[int, int]:
        """Return the longest prefix of `hashes` that ends at a snapshot, as the number of its
        blocks, and the snapshot. Returns (0, -1) if there is none.

        A snapshot is not returned if its block is the only free one, because the new sequence needs
        another block for its own state.
        """
        for num_blocks in range(len(hashes), 0, -1):
            snapshot = self.cache.get(hashes[num_blocks - 1])
            if snapshot is not None:
                needed = 1 if self._states.num_held([snapshot]) else 2
                return (num_blocks, snapshot) if self.num_free >= needed else (0, -1)
        return 0, -1

    def hold(self, snapshot: int) -> None:
        """Keep a snapshot until the step that restores it was collected."""
        self._states.share([snapshot])

    def plan(self, sequence: Sequence, num_blocks: int) -> None:
        """Choose the positions at which snapshots of an admitted sequence are taken. `num_blocks`
        is the number of full blocks before its last token.
        """
        if not self._is_chunked:
            return
        hashes = sequence.block_hashes
        if sequence.num_common_blocks < 0:
            sequence.num_common_blocks = self._seen.add(hashes[:num_blocks])
        first = sequence.num_computed_tokens // self._block_size
        common = min(sequence.num_common_blocks, num_blocks)
        ends = [first]
        for end in map(self._aligned, [common, num_blocks, *self._chunk_ends(first, num_blocks)]):
            if end > first and min(abs(end - other) for other in ends) >= _MIN_BLOCKS:
                ends.append(end)
        for end in sorted(ends[1:]):
            block_hash = hashes[end - 1]
            if block_hash not in self._claimed and self.cache.get(block_hash) is None:
                self._claimed.add(block_hash)
                sequence.snapshot_positions.append(end * self._block_size)

    def restore(self, sequence: Sequence) -> StateCopy:
        """Return the copy that restores the snapshot that `admit` chose for a sequence."""
        snapshot, sequence.restored_state = sequence.restored_state, -1
        self._in_flight[snapshot] += 1
        return StateCopy(snapshot, sequence.sequence_slot)

    def save(self, sequence: Sequence) -> StateCopy | None:
        """Return the copy that takes a snapshot of a sequence before its next row, or None if no
        snapshot is planned at this position or no block is free.
        """
        positions = sequence.snapshot_positions
        if not positions or positions[0] != sequence.num_submitted_tokens:
            return None
        block_hash = sequence.block_hashes[positions.pop(0) // self._block_size - 1]
        if not self._states.num_free:
            self._claimed.discard(block_hash)
            return None
        [target] = self._states.allocate(1)
        self._in_flight[target] += 1
        saved = sequence, sequence.epoch
        return StateCopy(sequence.sequence_slot, target, saved, block_hash)

    def complete(self, copies: Iterable[StateCopy], *, is_valid: bool) -> None:
        """Process the copies of a step that was collected. A new snapshot is kept if the step
        succeeded and its sequence was not removed from the worker meanwhile.
        """
        for copy in copies:
            if copy.saved is not None:
                sequence, epoch = copy.saved
                self._claimed.discard(copy.block_hash)
                if is_valid and sequence.epoch == epoch and self._has_block(copy.block_hash):
                    self.cache.insert(copy.block_hash, copy.target)
            self._in_flight[copy.snapshot] -= 1
            self._states.release([copy.snapshot])

    def leave(self, sequence: Sequence) -> None:
        """Cancel the snapshots of a sequence that is removed from the worker."""
        for position in sequence.snapshot_positions:
            self._claimed.discard(sequence.block_hashes[position // self._block_size - 1])
        sequence.snapshot_positions = []
        if sequence.restored_state >= 0:
            self._states.release([sequence.restored_state])
            sequence.restored_state = -1

    def evict(self, block_hash: bytes) -> None:
        """Evict the snapshot of a block that was evicted."""
        snapshot = self.cache.get(block_hash)
        if snapshot is not None:
            self._states.forget(snapshot)

    def forget_cached(self) -> None:
        """Evict all snapshots, because their content is lost."""
        self._states.forget_cached()

    def _aligned(self, num_blocks: int) -> int:
        """Round a number of blocks down, so that it is an allowed position of a snapshot."""
        return num_blocks - num_blocks % self._step

    def _chunk_ends(self, first: int, num_blocks: int) -> range:
        """Return ends of the largest chunks between block `first` and block `num_blocks`, at equal
        distances.
        """
        if self._chunk < _MIN_BLOCKS:
            return range(0)
        num_chunks = (num_blocks - first) // self._chunk
        distance = self._chunk * max(1, -(-num_chunks // _MAX_CHUNK_ENDS))
        return range(first + distance, num_blocks, distance)

    def check(self, states: Iterable[int], running: Iterable[Sequence]) -> None:
        """Raise AssertionError if a block is lost or used twice, or if a snapshot is claimed by a
        sequence that does not run. `states` are the states of sequences.
        """
        sequences = list(running)
        held = [s.restored_state for s in sequences if s.restored_state >= 0]
        self._states.check([[block] for block in [*states, *held, *self._in_flight.elements()]])
        wanted = {
            sequence.block_hashes[position // self._block_size - 1]
            for sequence in sequences
            for position in sequence.snapshot_positions
        }
        assert wanted <= self._claimed, "two sequences take the same snapshot"
        assert self._in_flight.total() or wanted == self._claimed, "a claim belongs to no sequence"
