"""What a sequence holds of the cache, whichever way the agreement divides it: blocks, a slot, or a state.

Full and window groups share the block size and grow together, so one block manager serves them all: a sequence has the same block
ids in each. In the same way one slot manager serves the slots, or all state groups.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import final

import numpy as np

from tgi.backend import Agreement, BackendError, Int32Array, KVCachePlan
from tgi.scheduler.block_manager import BlockManager
from tgi.scheduler.prefix_cache import PrefixCache
from tgi.scheduler.sequence import Sequence
from tgi.scheduler.slot_manager import SlotManager

__all__ = ["KVCacheManager"]

_RESERVE_DIVISOR = 100  # admission leaves up to this part of the blocks to the running sequences, so that few are preempted


@final
class KVCacheManager:
    """Admits, grows and releases what sequences hold. Without a `hash_key` there is no prefix cache.

    What a step in flight still uses is only handed out again once that step is collected.
    """

    def __init__(self, agreement: Agreement, hash_key: bytes | None) -> None:
        plan = agreement.kv_cache
        _check_plan(plan)
        self._plan = plan
        groups = plan.groups if plan.mode == "paged" else ()
        self._is_token_group = [group.kind in ("full", "window") for group in groups]
        self._has_blocks = any(self._is_token_group)
        self.block_size = plan.block_size if self._has_blocks else 0
        num_blocks = min((g.num_blocks for g in groups if g.kind != "state"), default=0)
        is_shareable = self._has_blocks and agreement.has("prefix_cache") and all(g.kind == "full" for g in groups)
        self._prefix_cache = PrefixCache(plan.block_size, hash_key) if hash_key and is_shareable else None
        self.blocks = BlockManager(num_blocks, self._prefix_cache)
        self.slots = _slot_manager(plan)
        self._releasing: deque[tuple[int, list[int], int]] = deque()  # last step that uses them, blocks, slot

    @property
    def max_sequence_tokens(self) -> int | None:
        """Tokens that a sequence can hold when it is alone; None = no limit."""
        if self._plan.mode == "slots":
            return self._plan.slot_tokens
        return self.blocks.num_blocks * self.block_size if self._has_blocks else None

    @property
    def num_used_tokens(self) -> int:
        """Tokens that fit into what is held."""
        if self._plan.mode == "slots":
            return (self._plan.num_slots - self.num_free) * self._plan.slot_tokens
        return self.blocks.num_used * self.block_size

    @property
    def num_free(self) -> int:
        """Blocks (or slots) nobody holds."""
        return self.slots.num_free if self.slots is not None and not self._has_blocks else self.blocks.num_free

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold `num_tokens`."""
        return -(-num_tokens // self.block_size) if self._has_blocks else 0

    def has_room(self, num_sequences: int, num_blocks: int, num_running: int) -> bool:
        """Whether so many sequences with so many blocks in all could be admitted beside the running ones."""
        if self.slots is not None and self.slots.num_free < num_sequences:
            return False
        reserve = min(num_running, self.blocks.num_blocks // _RESERVE_DIVISOR)
        return num_blocks <= max(self.blocks.num_free - reserve, 0)

    def admit(self, sequence: Sequence, num_running: int) -> bool:
        """Take what all known tokens of a sequence need, shared with others as far as the prefix cache knows them."""
        hits = self._find(sequence)
        needed = self.blocks_for(sequence.num_tokens) - self.blocks.num_held(hits)
        if not self.has_room(1, needed, num_running):
            return False
        self.blocks.share(hits)
        sequence.block_table = [*hits, *self.blocks.allocate(self.blocks_for(sequence.num_tokens) - len(hits))]
        sequence.slot = -1 if self.slots is None else self.slots.allocate()
        sequence.num_computed_tokens = len(hits) * self.block_size
        sequence.num_registered_blocks = len(hits)
        return True

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Make the table of a running sequence long enough for `num_tokens`; False = too few blocks are free."""
        missing = self.blocks_for(num_tokens) - len(sequence.block_table)
        if missing > self.blocks.num_free:
            return False
        if missing > 0:
            sequence.block_table += self.blocks.allocate(missing)
        return True

    def register_computed(self, sequence: Sequence) -> None:
        """Show the full computed blocks of a sequence to the prefix cache."""
        if self._prefix_cache is None:
            return
        num_full = sequence.num_computed_tokens // self.block_size
        if num_full == sequence.num_registered_blocks:
            return
        self._prefix_cache.extend_hashes(sequence.block_hashes, sequence.token_ids, num_full, adapter=sequence.adapter)
        for index in range(sequence.num_registered_blocks, num_full):
            self._prefix_cache.insert(sequence.block_hashes[index], sequence.block_table[index])
        sequence.num_registered_blocks = num_full

    def release(self, sequence: Sequence, *, in_use: bool) -> None:
        """Take back what a sequence holds, at once or, if a step in flight still uses it, when that step is collected."""
        if in_use:
            self._releasing.append((sequence.last_step_id, sequence.block_table, sequence.slot))
        else:
            self._free(sequence.block_table, sequence.slot)
        sequence.block_table, sequence.slot = [], -1

    def collected(self, oldest_in_flight: int | None) -> None:
        """Steps below `oldest_in_flight` (None = all) are collected; what only they used is free."""
        kept: deque[tuple[int, list[int], int]] = deque()
        for step_id, blocks, slot in self._releasing:
            if oldest_in_flight is None or step_id < oldest_in_flight:
                self._free(blocks, slot)
            else:
                kept.append((step_id, blocks, slot))
        self._releasing = kept

    def tables(self, sequence: Sequence) -> list[Int32Array]:
        """The block table of each cache group; empty in slots mode."""
        return [
            np.array(sequence.block_table if is_token_group else [sequence.slot], np.int32)
            for is_token_group in self._is_token_group
        ]

    def growth(self, blocks: list[int], ptr: list[int]) -> tuple[list[Int32Array], list[Int32Array]]:
        """`Rows.new_block_ptr` and `Rows.new_blocks` of a step whose rows' tables grew by `blocks`. States never grow."""
        pointers, appended = np.array(ptr, np.int32), np.array(blocks, np.int32)
        none, nothing = np.zeros_like(pointers), np.empty(0, np.int32)
        kinds = self._is_token_group
        return [pointers if kind else none for kind in kinds], [appended if kind else nothing for kind in kinds]

    def check(self, running: Iterable[Sequence]) -> None:
        """Blocks and slots are free, or held by running sequences and steps in flight; nothing is lost."""
        holders = [(s.block_table, s.slot) for s in running] + [(blocks, slot) for _, blocks, slot in self._releasing]
        self.blocks.check(blocks for blocks, _ in holders)
        if self.slots is not None:
            self.slots.check(slot for _, slot in holders)

    def _find(self, sequence: Sequence) -> list[int]:
        """Blocks with the beginning of a sequence. At least its last token is left to run."""
        if self._prefix_cache is None or not sequence.is_prompt_scored:
            return []
        num_blocks = (sequence.num_tokens - 1) // self.block_size
        hashes = sequence.block_hashes
        self._prefix_cache.extend_hashes(hashes, sequence.token_ids, num_blocks, adapter=sequence.adapter)
        return self._prefix_cache.find(hashes[:num_blocks])

    def _free(self, blocks: list[int], slot: int) -> None:
        self.blocks.release(blocks)
        if self.slots is not None:
            self.slots.release(slot)


def _slot_manager(plan: KVCachePlan) -> SlotManager | None:
    if plan.mode == "slots":
        return SlotManager(plan.num_slots)
    states = [group.num_blocks for group in plan.groups if group.kind == "state"]
    return SlotManager(min(states)) if states else None


def _check_plan(plan: KVCachePlan) -> None:
    if any(group.kind == "cross" for group in plan.groups):
        raise BackendError("The backend divides its cache with a cross attention group, which the scheduler cannot serve yet.")
    if plan.mode == "slots" and (plan.num_slots < 1 or plan.slot_tokens < 1):
        raise BackendError(
            f"The backend agreed on {plan.num_slots} cache slots of {plan.slot_tokens} tokens; both must be at least 1."
        )
    if plan.mode == "paged" and not (plan.groups and all(group.num_blocks > 0 for group in plan.groups)):
        raise BackendError("The backend agreed on a paged cache without blocks.", "Give it more memory or a smaller model.")
    if any(group.kind in ("full", "window") for group in plan.groups) and plan.block_size < 1:
        raise BackendError(f"The backend agreed on blocks of {plan.block_size} tokens; a block holds at least 1.")
