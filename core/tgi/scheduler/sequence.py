"""One stream of tokens and everything the scheduler knows about it. Plain data with derived
properties.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import final

from tgi.scheduler.block_manager import BlockContext
from tgi.scheduler.records import Request
from tgi.types import FinishReason

__all__ = ["Sequence", "SequenceState"]

_SEED_MASK = (1 << 64) - 1


@final
class SequenceState(enum.Enum):
    """WAITING in the queue, RUNNING in the worker, or FINISHED. A preempted sequence is WAITING
    again.
    """

    WAITING = enum.auto()
    RUNNING = enum.auto()
    FINISHED = enum.auto()


@final
@dataclass(slots=True, eq=False)
class Sequence:
    """A sequence from arrival to end.

    Three counts describe its progress: `num_computed_tokens` <= `num_submitted_tokens` <=
    `num_tokens` + `num_pending_tokens`.
    """

    sequence_id: int
    request: Request
    token_ids: list[int]  # prompt, then output
    num_prompt_tokens: int
    max_tokens: int  # it ends when prompt and output are this long
    arrival_ns: int
    block_context: BlockContext
    has_run: bool = False  # it was admitted before
    queue_ns: int = 0  # from arrival to the first step
    state: SequenceState = SequenceState.WAITING
    # counts the times it left the worker; a row of an earlier residence has no effect any more
    epoch: int = 0
    handle: int = -1  # its name in the worker
    block_table: list[int] = field(
        default_factory=list
    )  # the same ids in every full and window group
    num_sent_blocks: int = 0  # blocks of the table that the worker knows
    cross_table: list[int] = field(
        default_factory=list
    )  # of its encoder tokens; the same ids in every cross group
    sequence_slot: int = -1  # its slot, or its block in every state group
    block_hashes: list[bytes] = field(default_factory=list)  # of its first full blocks
    num_registered_blocks: int = 0  # computed blocks that were shown to the prefix cache
    num_prefill_tokens: int = 0  # tokens that run as prefill in this residence
    num_computed_tokens: int = 0  # tokens whose keys and values exist
    num_submitted_tokens: int = 0  # … or will exist once the steps in flight are collected
    num_pending_tokens: int = (
        0  # tokens that steps in flight will choose; of a row that may choose several, one
    )
    # a row in flight may choose several tokens: where the sequence goes on is not known before
    has_open_row: bool = False
    num_cached_tokens: int = 0  # prefix cache hits at the first admission
    num_sent_prompt_logprobs: int = 0
    num_preemptions: int = 0
    has_failed_step: bool = False  # a step with it failed since its last token
    num_repeats: int = 0  # of its failed steps, those that were repeated at the same size
    last_step_id: int = -1  # latest step with a row of it

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
    ) -> Sequence:
        """Create a waiting sequence. `output_token_ids` are those that an earlier engine chose."""
        num_prompt_tokens = len(request.prompt_token_ids)
        return cls(
            sequence_id=sequence_id,
            request=request,
            token_ids=[*request.prompt_token_ids, *output_token_ids],
            num_prompt_tokens=num_prompt_tokens,
            max_tokens=min(num_prompt_tokens + request.max_new_tokens, max_total_tokens),
            arrival_ns=arrival_ns,
            block_context=block_context,
        )

    @property
    def seed(self) -> int:
        """The seed of its draws, 0 to 2**64 - 1."""
        return self.request.seed & _SEED_MASK

    @property
    def num_tokens(self) -> int:
        """Tokens known: prompt and output."""
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        """Output tokens known."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def prompt_token_ids(self) -> list[int]:
        """The prompt."""
        return self.token_ids[: self.num_prompt_tokens]

    @property
    def output_token_ids(self) -> list[int]:
        """The output so far."""
        return self.token_ids[self.num_prompt_tokens :]

    @property
    def num_encoder_tokens(self) -> int:
        """Tokens that its encoder reads, whole, in the step in which it starts."""
        return len(self.request.encoder_token_ids)

    @property
    def is_prefilling(self) -> bool:
        """Whether part of its prefill is still to be submitted."""
        return self.num_submitted_tokens < self.num_prefill_tokens

    @property
    def is_prompt_scored(self) -> bool:
        """Whether no prompt logprobs are (any longer) owed."""
        return (
            not self.request.sampling.prompt_logprobs
            or self.num_sent_prompt_logprobs == self.num_prompt_tokens
        )

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the last token ends it: its length first, then EOS; None = it goes on."""
        if len(self.token_ids) >= self.max_tokens:
            return FinishReason.LENGTH
        if self.token_ids[-1] in self.request.eos_token_ids:
            return FinishReason.EOS_TOKEN
        return None

    def close_row(self, num_tokens: int) -> None:
        """An open row chose that many tokens: all but the last ran, too."""
        self.has_open_row = False
        self.num_computed_tokens += num_tokens - 1
        self.num_submitted_tokens = self.num_computed_tokens

    def reset_progress(self) -> None:
        """It holds nothing any more and is computed from the start when it runs again."""
        self.num_sent_blocks = 0
        self.num_registered_blocks = 0
        self.num_prefill_tokens = 0
        self.num_computed_tokens = 0
        self.num_submitted_tokens = 0
        self.num_pending_tokens = 0
        self.has_open_row = False

    def check(self, block_size: int) -> None:
        """Raise AssertionError if the counts contradict each other. `block_size` 0 = it has no
        block table.
        """
        known = self.num_tokens + self.num_pending_tokens
        assert self.num_computed_tokens <= self.num_submitted_tokens <= known, (
            "more tokens ran than are known"
        )
        assert self.num_tokens < self.max_tokens, "a sequence went on after its end"
        if self.state is SequenceState.WAITING:
            held = (
                self.block_table
                or self.cross_table
                or self.sequence_slot != -1
                or self.handle != -1
            )
            assert not held, "a waiting sequence holds something"
        else:
            assert (
                block_size == 0 or self.num_submitted_tokens <= len(self.block_table) * block_size
            ), "tokens ran without a block"
