"""A sequence and its state in the scheduler: plain data with derived properties."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import final

from tgi.scheduler.block_manager import BlockContext
from tgi.scheduler.constraint import TokenConstraint
from tgi.scheduler.records import Request
from tgi.types import FinishReason

__all__ = ["Sequence", "SequenceState"]

_SEED_MASK = (1 << 64) - 1


@final
class SequenceState(enum.Enum):
    """The state of a sequence: WAITING in the queue, RUNNING in the worker, or FINISHED. A
    preempted sequence is WAITING again.
    """

    WAITING = enum.auto()
    RUNNING = enum.auto()
    FINISHED = enum.auto()


@final
@dataclass(slots=True, eq=False)
class Sequence:
    """One stream of tokens, from its arrival to its end.

    The counts of tokens describe the progress. `num_computed_tokens` <= `num_submitted_tokens` <=
    `num_tokens` + `num_pending_tokens` always holds.
    """

    sequence_id: int
    request: Request
    token_ids: list[int]  # prompt, then output
    num_prompt_tokens: int
    max_tokens: int  # maximum length of prompt and output together
    arrival_ns: int
    block_context: BlockContext
    constraint: TokenConstraint | None = None  # None = every token is allowed
    has_run: bool = False  # the sequence was admitted at least once
    queue_ns: int = 0  # nanoseconds from the arrival to the first step
    state: SequenceState = SequenceState.WAITING
    # The number of times that the sequence was removed from the worker. A row of an earlier epoch
    # has no effect.
    epoch: int = 0
    handle: int = -1  # the number that identifies the sequence in the worker
    # Block ids, which are the same in every full and window group.
    block_table: list[int] = field(default_factory=list)
    num_sent_blocks: int = 0  # blocks of the table that were sent to the worker
    # Block ids of the encoder tokens, which are the same in every cross group.
    cross_table: list[int] = field(default_factory=list)
    sequence_slot: int = -1  # the cache slot, or the block id in every state group
    # The snapshot that the first step copies to the sequence's state, until the step is built.
    restored_state: int = -1
    # Positions in ascending order at which snapshots of the state will be taken. A prefill row ends
    # at each of them.
    snapshot_positions: list[int] = field(default_factory=list)
    # Number of full blocks that the prompt shares with a recent prompt, or -1 before the first
    # admission.
    num_common_blocks: int = -1
    block_hashes: list[bytes] = field(default_factory=list)  # hashes of the first full blocks
    num_registered_blocks: int = 0  # computed blocks that were offered to the prefix cache
    num_prefill_tokens: int = 0  # tokens that run as prefill in this epoch
    num_computed_tokens: int = 0  # tokens whose keys and values are computed
    # Computed tokens, plus tokens that the steps in flight compute.
    num_submitted_tokens: int = 0
    # Tokens that the steps in flight will sample. A row that may sample several tokens counts as
    # one token.
    num_pending_tokens: int = 0
    # If set, a row in flight may sample several tokens, so the next position is not known yet.
    has_open_row: bool = False
    num_cached_tokens: int = 0  # prefix cache hits at the first admission
    num_sent_prompt_logprobs: int = 0
    num_preemptions: int = 0
    has_failed_step: bool = False  # a step with this sequence failed since its last token
    num_repeats: int = 0  # failed steps that were repeated at the same size
    last_step_id: int = -1  # the latest step with a row of this sequence

    @classmethod
    def of(
        cls,
        sequence_id: int,
        request: Request,
        output_token_ids: Iterable[int],
        *,
        block_context: BlockContext,
        max_total_tokens: int,
        arrival_ns: int,
        constraint: TokenConstraint | None = None,
    ) -> Sequence:
        """Create a waiting sequence. `output_token_ids` are the output tokens that an earlier
        engine process generated.
        """
        num_prompt_tokens = len(request.prompt_token_ids)
        return cls(
            sequence_id=sequence_id,
            request=request,
            token_ids=[*request.prompt_token_ids, *output_token_ids],
            num_prompt_tokens=num_prompt_tokens,
            max_tokens=min(num_prompt_tokens + request.max_new_tokens, max_total_tokens),
            arrival_ns=arrival_ns,
            block_context=block_context,
            constraint=constraint,
        )

    @property
    def seed(self) -> int:
        """The seed of the sequence's random draws, 0 to 2**64 - 1."""
        return self.request.seed & _SEED_MASK

    @property
    def num_tokens(self) -> int:
        """Number of known tokens: prompt and output."""
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        """Number of known output tokens."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def prompt_token_ids(self) -> list[int]:
        """Token ids of the prompt."""
        return self.token_ids[: self.num_prompt_tokens]

    @property
    def output_token_ids(self) -> list[int]:
        """Token ids of the output so far."""
        return self.token_ids[self.num_prompt_tokens :]

    @property
    def num_encoder_tokens(self) -> int:
        """Number of encoder tokens. The encoder reads all of them in the sequence's first step."""
        return len(self.request.encoder_token_ids)

    @property
    def is_prefilling(self) -> bool:
        """Whether a part of the sequence's prefill has not been submitted yet."""
        return self.num_submitted_tokens < self.num_prefill_tokens

    @property
    def num_tokens_to_snapshot(self) -> int:
        """Number of tokens to compute until the next snapshot of the state, or 0 if none follows.
        The snapshot of the current position is not counted.
        """
        for position in self.snapshot_positions:
            if position > self.num_submitted_tokens:
                return position - self.num_submitted_tokens
        return 0

    @property
    def is_prompt_scored(self) -> bool:
        """Whether the sequence needs no (further) prompt logprobs."""
        return (
            not self.request.sampling.prompt_logprobs
            or self.num_sent_prompt_logprobs == self.num_prompt_tokens
        )

    @property
    def finish_reason(self) -> FinishReason | None:
        """The reason for which the sequence ends with its last token, or None if it does not end.
        If both reasons apply, the reason is the length limit and not EOS.
        """
        if len(self.token_ids) >= self.max_tokens:
            return FinishReason.LENGTH
        if self.token_ids[-1] in self.request.eos_token_ids:
            return FinishReason.EOS_TOKEN
        return None

    def close_row(self, num_tokens: int) -> None:
        """Update the counts after `num_tokens` tokens were sampled for a row that allowed several
        tokens. The keys and values of all these tokens except the last one are computed.
        """
        self.has_open_row = False
        self.num_computed_tokens += num_tokens - 1
        self.num_submitted_tokens = self.num_computed_tokens

    def reset_progress(self) -> None:
        """Reset all counts of the cache, because the sequence will be recomputed from its start."""
        self.num_sent_blocks = 0
        self.num_registered_blocks = 0
        self.num_prefill_tokens = 0
        self.num_computed_tokens = 0
        self.num_submitted_tokens = 0
        self.num_pending_tokens = 0
        self.has_open_row = False

    def check(self, block_size: int) -> None:
        """Raise AssertionError if the counts contradict each other. A `block_size` of 0 means that
        the sequence has no block table.
        """
        known = self.num_tokens + self.num_pending_tokens
        assert self.num_computed_tokens <= self.num_submitted_tokens <= known, (
            "more tokens were submitted than are known"
        )
        assert self.num_tokens < self.max_tokens, "a sequence has tokens after its end"
        if self.constraint is not None:
            num_accepted = self.constraint.num_accepted
            assert num_accepted in (None, self.num_output_tokens), (
                f"a constraint accepted {num_accepted} of {self.num_output_tokens} output tokens"
            )
        if self.state is SequenceState.WAITING:
            held = (
                self.block_table
                or self.cross_table
                or self.sequence_slot != -1
                or self.restored_state != -1
                or self.snapshot_positions
                or self.handle != -1
            )
            assert not held, "a waiting sequence has blocks, a slot, a snapshot or a handle"
        else:
            assert (
                block_size == 0 or self.num_submitted_tokens <= len(self.block_table) * block_size
            ), "a submitted token has no block"
