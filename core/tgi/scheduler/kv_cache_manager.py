"""Allocates the part of the KV cache that each sequence needs. Depending on the negotiated plan,
this part is a list of blocks, a slot or a state.

A cache group is a set of layers with the same kind of cache: `full` or `window` attention,
recurrent `state`, or `cross` attention. One block manager allocates the blocks of all full and
window groups, because these groups have the same block size and grow together. A sequence has the
same block ids in each of these groups. In paged mode, the cache is divided into blocks. In slots
mode, the cache is divided into slots that contain one sequence each (`KVCachePlan.mode`). One slot
manager allocates the slots in slots mode, and the blocks of all state groups in paged mode. A
second block manager allocates the blocks of all cross groups. Cross blocks contain encoder tokens,
so the number of cross blocks of a sequence never grows. With the feature `state_snapshots`,
`StateSnapshots` allocates the blocks of the state groups in place of the slot manager.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import final

import numpy as np

from tgi.backend import Agreement, Int32Array
from tgi.scheduler.block_manager import BlockManager, PrefixCache
from tgi.scheduler.cache_parts import (
    TOKEN_KINDS,
    CacheHit,
    CacheNeed,
    Holding,
    check_plan,
    is_shareable,
    sequence_slot_manager,
)
from tgi.scheduler.sequence import Sequence
from tgi.scheduler.sequence_slot_manager import SequenceSlotManager
from tgi.scheduler.state_snapshots import StateCopy, StateSnapshots

__all__ = ["KVCacheManager"]

# Admission leaves one block free for each running sequence, but at most 1 / `_RESERVE_DIVISOR` of
# all blocks. This reserve makes preemptions rare.
_RESERVE_DIVISOR = 100
# If the memory of a block is allocated at its first use, the limit of the prefix cache is at least
# this number of tokens.
_KEPT_TOKENS = 16_384


@final
class KVCacheManager:
    """Allocates blocks and slots when a sequence is admitted or grows, and releases them when the
    sequence ends or is preempted. If `hash_key` is None, there is no prefix cache.

    Blocks and slots that a step in flight uses are allocated again only after this step has been
    collected.
    """

    def __init__(self, agreement: Agreement, hash_key: bytes | None) -> None:
        plan = agreement.kv_cache
        check_plan(plan)
        self._plan = plan
        groups = plan.groups if plan.mode == "paged" else ()
        self._kinds = [group.kind for group in groups]
        self._has_blocks = any(kind in TOKEN_KINDS for kind in self._kinds)
        self.block_size = plan.block_size if self._has_blocks else 0
        num_blocks = min((g.num_blocks for g in groups if g.kind in TOKEN_KINDS), default=0)
        key = hash_key if is_shareable(agreement) else None
        self._prefix_cache = (
            PrefixCache(plan.block_size, key) if key is not None and self._has_blocks else None
        )
        self.snapshots = (
            StateSnapshots(plan, agreement.limits, key, self._has_cached_block)
            if key is not None and "state" in self._kinds
            else None
        )
        self._hasher = self._prefix_cache
        if self._hasher is None and self.snapshots is not None:
            self._hasher = self.snapshots.cache
        max_cached = (
            _KEPT_TOKENS // plan.block_size if plan.on_demand and self._has_blocks else None
        )
        on_evict = None if self.snapshots is None else self.snapshots.evict
        self.blocks = BlockManager(num_blocks, self._prefix_cache, max_cached, on_evict)
        # Its property `num_cached` is the number of free blocks (or states) in the prefix cache.
        self.cached: BlockManager | StateSnapshots = (
            self.blocks if self.snapshots is None or self._has_blocks else self.snapshots
        )
        self.cross_blocks = BlockManager(
            min((g.num_blocks for g in groups if g.kind == "cross"), default=0)
        )
        self.sequence_slots = (
            sequence_slot_manager(plan) if self.snapshots is None else self.snapshots
        )
        # Released holdings, each with the id of the last step that uses it.
        self._releasing: deque[tuple[int, Holding]] = deque()

    @property
    def max_sequence_tokens(self) -> int | None:
        """Maximum number of tokens of a sequence if the cache contains no other sequence. None
        means that there is no limit.
        """
        if self._plan.mode == "slots":
            return self._plan.sequence_slot_tokens
        return self.blocks.num_blocks * self.block_size if self._has_blocks else None

    @property
    def has_cross_blocks(self) -> bool:
        """Whether the cache has blocks for encoder tokens. If so, every sequence needs at least one
        of these blocks.
        """
        return "cross" in self._kinds

    @property
    def max_encoder_tokens(self) -> int | None:
        """Maximum number of encoder tokens of a sequence if the cache contains no other sequence.
        None means that there is no limit.
        """
        return (
            None
            if self._plan.mode == "slots"
            else self.cross_blocks.num_blocks * self._plan.block_size
        )

    @property
    def num_used_tokens(self) -> int:
        """Number of tokens that fit into the allocated blocks or slots."""
        if self._plan.mode == "slots":
            return (self._plan.num_sequence_slots - self.num_free) * self._plan.sequence_slot_tokens
        return self.blocks.num_used * self.block_size

    @property
    def num_free(self) -> int:
        """Number of blocks (or slots) without references, including cached blocks."""
        return (
            self.sequence_slots.num_free
            if self.sequence_slots is not None and not self._has_blocks
            else self.blocks.num_free
        )

    def blocks_for(self, num_tokens: int) -> int:
        """Return the number of blocks for `num_tokens` tokens."""
        return -(-num_tokens // self.block_size) if self._has_blocks else 0

    def need(self, sequence: Sequence) -> CacheNeed:
        """Return the blocks and slots that all known tokens of a sequence need. Blocks that the
        sequence can share are included.
        """
        cross = (
            -(-sequence.num_encoder_tokens // self._plan.block_size) if self.has_cross_blocks else 0
        )
        return CacheNeed(1, self.blocks_for(sequence.num_tokens), cross)

    def can_allocate(self, need: CacheNeed, num_running: int) -> bool:
        """Whether sequences with this total need can be admitted in addition to the running
        ones.
        """
        if self.sequence_slots is not None and self.sequence_slots.num_free < need.num_sequences:
            return False
        if self.cross_blocks.num_free < need.num_cross_blocks:
            return False
        num_blocks = need.num_blocks
        reserve = min(num_running, self.blocks.num_blocks // _RESERVE_DIVISOR)
        return num_blocks <= max(self.blocks.num_free - reserve, 0)

    def admit(self, sequence: Sequence, num_running: int) -> bool:
        """Allocate the cache for all known tokens of a sequence. Blocks with a cached prefix of the
        sequence are shared. Returns False if too few blocks or slots are free.
        """
        hit = self._find(sequence)
        need = self.need(sequence)
        if not self.can_allocate(need.without(self.blocks.num_held(hit.blocks)), num_running):
            return False
        self.blocks.share(hit.blocks)
        if self.snapshots is not None and hit.snapshot >= 0:
            self.snapshots.hold(hit.snapshot)
            sequence.restored_state = hit.snapshot
        sequence.block_table = [
            *hit.blocks,
            *self.blocks.allocate(need.num_blocks - len(hit.blocks)),
        ]
        sequence.cross_table = self.cross_blocks.allocate(need.num_cross_blocks)
        sequence.sequence_slot = (
            -1 if self.sequence_slots is None else self.sequence_slots.allocate()
        )
        sequence.num_computed_tokens = hit.num_blocks * self._plan.block_size
        sequence.num_registered_blocks = len(hit.blocks)
        if self.snapshots is not None:
            self.snapshots.plan(sequence, self._extend_hashes(sequence))
        return True

    def find_full(self, sequences: Iterable[Sequence]) -> list[Sequence]:
        """Return the sequences whose block table has no space for another token."""
        if not self._has_blocks:
            return []
        size = self.block_size
        return [
            sequence
            for sequence in sequences
            if sequence.num_submitted_tokens >= len(sequence.block_table) * size
        ]

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Extend the block table of a running sequence so that `num_tokens` tokens fit. Returns
        False if too few blocks are free.
        """
        missing = self.blocks_for(num_tokens) - len(sequence.block_table)
        if missing > self.blocks.num_free:
            return False
        if missing > 0:
            sequence.block_table += self.blocks.allocate(missing)
        return True

    def register_computed(self, sequences: Iterable[Sequence]) -> None:
        """Insert the full computed blocks of sequences into the prefix cache."""
        if self._prefix_cache is None:
            return
        size = self.block_size
        for sequence in [
            s for s in sequences if s.num_computed_tokens >= (s.num_registered_blocks + 1) * size
        ]:
            num_full = sequence.num_computed_tokens // size
            self._prefix_cache.extend_hashes(
                sequence.block_hashes, sequence.token_ids, num_full, sequence.block_context.extra
            )
            for index in range(sequence.num_registered_blocks, num_full):
                self._prefix_cache.insert(sequence.block_hashes[index], sequence.block_table[index])
            sequence.num_registered_blocks = num_full

    def complete(self, copies: list[StateCopy], *, is_valid: bool) -> None:
        """Release the snapshots that a collected step copied. New snapshots are kept if the step
        succeeded (`is_valid`).
        """
        if self.snapshots is not None:
            self.snapshots.complete(copies, is_valid=is_valid)

    def release(self, sequence: Sequence, *, in_use: bool) -> None:
        """Release the blocks and the slot of a sequence. If `in_use` is set, a step in flight still
        uses the blocks and the slot, so they become free when this step is collected.
        """
        if self.snapshots is not None:
            self.snapshots.leave(sequence)
        if in_use:
            self._releasing.append((sequence.last_step_id, Holding.of(sequence)))
        else:
            self._free(Holding.of(sequence))
        sequence.block_table, sequence.cross_table, sequence.sequence_slot = [], [], -1

    def collected(self, oldest_in_flight: int | None) -> None:
        """Free the released blocks and slots that no step in flight uses. `oldest_in_flight` is the
        id of the oldest step in flight. None means that no step is in flight.
        """
        if not self._releasing:
            return
        kept: deque[tuple[int, Holding]] = deque()
        for step_id, holding in self._releasing:
            if oldest_in_flight is None or step_id < oldest_in_flight:
                self._free(holding)
            else:
                kept.append((step_id, holding))
        self._releasing = kept

    def forget_cached(self) -> None:
        """Empty the prefix cache, because the worker lost its content."""
        self.blocks.forget_cached()
        if self.snapshots is not None:
            self.snapshots.forget_cached()

    def copies(self, copies: list[StateCopy]) -> tuple[list[Int32Array], list[Int32Array]]:
        """Return `SchedulerOutput.copy_source` and `copy_target`. `copies` is not empty."""
        none = np.empty(0, np.int32)
        sources, targets = (
            np.array(side, np.int32)
            for side in ([copy.source for copy in copies], [copy.target for copy in copies])
        )
        is_state = [kind == "state" for kind in self._kinds]
        return [sources if it else none for it in is_state], [
            targets if it else none for it in is_state
        ]

    def tables(self, sequence: Sequence) -> list[Int32Array]:
        """Return the block table of each cache group. The list is empty in slots mode."""
        tables = {"state": [sequence.sequence_slot], "cross": sequence.cross_table}
        return [np.array(tables.get(kind, sequence.block_table), np.int32) for kind in self._kinds]

    def growth(
        self, blocks: list[int], counts: list[int]
    ) -> tuple[list[Int32Array], list[Int32Array]]:
        """Return `Rows.new_block_ptr` and `Rows.new_blocks` of a step. `counts` [n] is the number
        of new blocks of each row, and `blocks` contains the new blocks, row after row.

        Only the tables of full and window groups grow.
        """
        none, nothing = np.zeros(len(counts) + 1, np.int32), np.empty(0, np.int32)
        pointers, appended = none, nothing
        if blocks:
            pointers, appended = (
                np.array([0, *counts], np.int32).cumsum(dtype=np.int32),
                np.array(blocks, np.int32),
            )
        grows = [kind in TOKEN_KINDS for kind in self._kinds]
        return [pointers if it else none for it in grows], [
            appended if it else nothing for it in grows
        ]

    def check(self, running: Iterable[Sequence]) -> None:
        """Raise AssertionError if a block or slot is neither free nor used by the running sequences
        or the steps in flight, or if it is both free and used.
        """
        sequences = list(running)
        holdings = [Holding.of(sequence) for sequence in sequences] + [
            holding for _, holding in self._releasing
        ]
        self.blocks.check(holding.blocks for holding in holdings)
        self.cross_blocks.check(holding.cross_blocks for holding in holdings)
        states = [holding.sequence_slot for holding in holdings]
        if self.snapshots is not None:
            self.snapshots.check(states, sequences)
        elif isinstance(self.sequence_slots, SequenceSlotManager):
            self.sequence_slots.check(states)

    def _find(self, sequence: Sequence) -> CacheHit:
        """Return the longest cached prefix of a sequence. The prefix never includes the last token
        of the sequence, so that at least one token is computed. With recurrent layers, the prefix
        ends at a snapshot.
        """
        if self._hasher is None or not sequence.is_prompt_scored:
            return CacheHit()
        hashes = sequence.block_hashes[: self._extend_hashes(sequence)]
        blocks = list[int]()
        if self._prefix_cache is not None:
            blocks = self._prefix_cache.find(hashes)
            del hashes[len(blocks) :]
        if self.snapshots is None:
            return CacheHit(len(blocks), tuple(blocks))
        num_blocks, snapshot = self.snapshots.find(hashes)
        return CacheHit(num_blocks, tuple(blocks[:num_blocks]), snapshot)

    def _extend_hashes(self, sequence: Sequence) -> int:
        """Compute the hashes of the full blocks before a sequence's last token. Returns the number
        of these blocks.
        """
        num_blocks = (sequence.num_tokens - 1) // self._plan.block_size
        if self._hasher is not None:
            self._hasher.extend_hashes(
                sequence.block_hashes,
                sequence.token_ids,
                num_blocks,
                sequence.block_context.extra,
            )
        return num_blocks

    def _has_cached_block(self, block_hash: bytes) -> bool:
        """Whether the block of tokens with this hash is cached, or the cache has no such blocks."""
        return self._prefix_cache is None or self._prefix_cache.get(block_hash) is not None

    def _free(self, holding: Holding) -> None:
        self.blocks.release(holding.blocks)
        self.cross_blocks.release(holding.cross_blocks)
        if self.sequence_slots is not None:
            self.sequence_slots.release(holding.sequence_slot)
