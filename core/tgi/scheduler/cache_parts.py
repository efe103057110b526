"""Records of the cache that a sequence uses, and the checks of the negotiated cache plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

from tgi.backend import Agreement, BackendError, KVCachePlan
from tgi.scheduler.sequence import Sequence
from tgi.scheduler.sequence_slot_manager import SequenceSlotManager

__all__ = [
    "TOKEN_KINDS",
    "CacheHit",
    "CacheNeed",
    "Holding",
    "check_plan",
    "is_shareable",
    "sequence_slot_manager",
]

TOKEN_KINDS = ("full", "window")
"""The kinds of cache groups in which each block stores `block_size` tokens."""


@final
@dataclass(slots=True, frozen=True)
class CacheNeed:
    """The number of blocks and slots that are required to admit one or more sequences."""

    num_sequences: int = 0
    num_blocks: int = 0
    num_cross_blocks: int = 0

    def __add__(self, other: CacheNeed) -> CacheNeed:
        return CacheNeed(
            self.num_sequences + other.num_sequences,
            self.num_blocks + other.num_blocks,
            self.num_cross_blocks + other.num_cross_blocks,
        )

    def without(self, num_blocks: int) -> CacheNeed:
        """Return this need reduced by `num_blocks` blocks that other sequences already use."""
        return CacheNeed(self.num_sequences, self.num_blocks - num_blocks, self.num_cross_blocks)


class CacheHit(NamedTuple):
    """The cached prefix of a sequence."""

    num_blocks: int = 0  # length of the prefix
    blocks: tuple[int, ...] = ()  # its blocks in the full groups
    snapshot: int = -1  # the state at its end


@final
@dataclass(slots=True, frozen=True)
class Holding:
    """The blocks and the slot of one sequence."""

    blocks: list[int]
    cross_blocks: list[int]
    sequence_slot: int

    @classmethod
    def of(cls, sequence: Sequence) -> Holding:
        return cls(sequence.block_table, sequence.cross_table, sequence.sequence_slot)


def is_shareable(agreement: Agreement) -> bool:
    """Whether the prefix cache can be used: it was negotiated, and the blocks of a prefix, together
    with a snapshot of the state if there are recurrent layers, describe the prefix completely.
    """
    plan = agreement.kv_cache
    if plan.mode != "paged" or not agreement.has("prefix_cache"):
        return False
    shareable = {"full", "state"} if agreement.has("state_snapshots") else {"full"}
    return {group.kind for group in plan.groups} <= shareable


def sequence_slot_manager(plan: KVCachePlan) -> SequenceSlotManager | None:
    """Return the manager of sequence slots or states, or None if the cache has neither."""
    if plan.mode == "slots":
        return SequenceSlotManager(plan.num_sequence_slots)
    states = [group.num_blocks for group in plan.groups if group.kind == "state"]
    return SequenceSlotManager(min(states)) if states else None


def check_plan(plan: KVCachePlan) -> None:
    """Raise `BackendError` if the cache has no blocks or slots."""
    if plan.mode == "slots" and (plan.num_sequence_slots < 1 or plan.sequence_slot_tokens < 1):
        raise BackendError(
            f"The backend negotiated {plan.num_sequence_slots} cache slots of"
            f" {plan.sequence_slot_tokens} tokens. Both numbers must be at least 1."
        )
    if plan.mode == "paged" and not (
        plan.groups and all(group.num_blocks > 0 for group in plan.groups)
    ):
        raise BackendError(
            "The backend negotiated a paged cache without blocks.",
            "Provide more memory or use a smaller model.",
        )
    if any(group.kind != "state" for group in plan.groups) and plan.block_size < 1:
        raise BackendError(
            f"The backend negotiated blocks of {plan.block_size} tokens. The minimum is 1."
        )
