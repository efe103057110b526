"""Collects the rows of a step of `ScriptedCore` and builds the arrays for the worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np

from tgi.backend import (
    TOKEN_ON_DEVICE,
    Agreement,
    GrammarMasks,
    Int32Array,
    KVCachePlan,
    Rows,
)
from tgi.testing.conformance.live_sequence import LiveSequence, draw_of

__all__ = ["StepArrays", "copies_of"]


@final
@dataclass
class StepArrays:
    """The columns of `Rows`, and the masks of the constrained rows."""

    _starts: list[int] = field(default_factory=list)
    _counts: list[int] = field(default_factory=list)
    _ids: list[int] = field(default_factory=list)
    _samples: list[bool] = field(default_factory=list)
    _draws: list[float] = field(default_factory=list)
    _new_blocks: list[int] = field(default_factory=list)
    _new_block_ptr: list[int] = field(default_factory=lambda: [0])
    _budgets: list[int] = field(default_factory=list)
    _extra_draws: list[float] = field(default_factory=list)
    _draft_tokens: list[int] = field(default_factory=list)
    _draft_ptr: list[int] = field(default_factory=lambda: [0])
    _masks: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)  # (row, allowed ids)

    def add_row(
        self,
        sequence: LiveSequence,
        count: int,
        *,
        is_sampled: bool,
        on_device: bool,
        budget: int,
    ) -> None:
        """Append a row of `count` tokens for which up to `budget` tokens may be sampled.

        `on_device` writes `TOKEN_ON_DEVICE` for tokens that the worker chose. Marks the blocks of
        the sequence as sent.
        """
        row, start = len(self._starts), sequence.num_computed_tokens
        if start < sequence.num_introduced_tokens:
            sequence.chunks.append(count)
        self._new_blocks += sequence.blocks[sequence.num_sent_blocks :]
        sequence.num_sent_blocks = len(sequence.blocks)
        self._new_block_ptr.append(len(self._new_blocks))
        chosen_from = len(sequence.prompt) + sequence.num_given
        self._ids += [
            TOKEN_ON_DEVICE if on_device and start + i >= chosen_from else token
            for i, token in enumerate(sequence.tokens[start : start + count])
        ]
        self._starts.append(start)
        self._counts.append(count)
        self._samples.append(is_sampled)
        self._draws.append(draw_of(sequence) if is_sampled else 0.0)
        self._budgets.append(budget)
        self._extra_draws += [draw_of(sequence, ahead) for ahead in range(1, budget)]
        if sequence.allowed and is_sampled:
            first = len(sequence.output)
            tokens = [sequence.allowed_at(first + i) for i in range(budget)]
            self._masks += [(row, allowed) for allowed in tokens if allowed is not None]

    def add_drafts(self, draft_tokens: Sequence[int]) -> None:
        """Add draft tokens to the row that was added last."""
        self._draft_tokens += draft_tokens
        self._draft_ptr.append(len(self._draft_tokens))

    def rows(self, sequences: Sequence[LiveSequence], agreement: Agreement) -> Rows:
        """Return the rows. `sequences` contains the sequence of each row, in order. Only cache
        groups that store tokens get blocks.
        """
        groups = [group.kind in ("full", "window") for group in agreement.kv_cache.groups]
        no_growth = [0] * len(self._new_block_ptr)
        return Rows(
            np.array([s.handle for s in sequences], np.int32),
            np.array(self._starts, np.int32),
            np.array(self._counts, np.int32),
            np.array(self._ids, np.int32),
            np.array(self._samples, np.uint8),
            np.array(self._draws, np.float32),
            [
                np.array(self._new_block_ptr if has_growth else no_growth, np.int32)
                for has_growth in groups
            ],
            [np.array(self._new_blocks if has_growth else [], np.int32) for has_growth in groups],
            np.array(self._budgets if agreement.limits.tokens_per_step > 1 else [], np.int32),
            np.array(self._extra_draws, np.float32),
            np.array(self._draft_ptr if self._draft_tokens else [], np.int32),
            np.array(self._draft_tokens, np.int32),
        )

    def masks(self, step_id: int, vocab_size: int) -> GrammarMasks | None:
        """Return one mask for each token that may be sampled for a constrained row, or None if no
        row is constrained.
        """
        if not self._masks:
            return None
        width = -(-vocab_size // 32)
        bits = np.zeros((len(self._masks), width * 32), np.uint8)
        for place, (_, tokens) in enumerate(self._masks):
            bits[place, list(tokens)] = 1
        words = np.packbits(bits, axis=1, bitorder="little").view(np.int32).reshape(-1)
        rows = np.array([row for row, _ in self._masks], np.int32)
        return GrammarMasks(step_id, rows, words)


def copies_of(
    plan: KVCachePlan,
    blocks: Sequence[tuple[int, int]],
    states: Sequence[tuple[int, int]],
) -> tuple[list[Int32Array], list[Int32Array]]:
    """Return `SchedulerOutput.copy_source` and `copy_target`. `blocks` are pairs (source, target)
    for the groups that store tokens, and `states` are pairs for the state groups.
    """
    if not blocks and not states:
        return [], []
    pairs = [states if group.kind == "state" else blocks for group in plan.groups]
    sources, targets = (
        [np.array([pair[side] for pair in group], np.int32) for group in pairs] for side in (0, 1)
    )
    return sources, targets
