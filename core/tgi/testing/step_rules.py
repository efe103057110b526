"""Checks that the core follows the rules of the backend interface. The conformance suite checks
that a backend follows these rules.

`StepRules` follows a stream of steps. `BrokenRuleError` is raised for the first step that exceeds
the negotiated limits, assigns blocks that are in use, or contradicts earlier steps. No model is
needed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import final

import numpy as np

from tgi.backend import (
    TOKEN_ON_DEVICE,
    Agreement,
    GrammarMasks,
    Int32Array,
    ModelRunnerOutput,
    NewSequence,
    Rows,
    SchedulerOutput,
)
from tgi.testing.step_copies import check_copies, check_snapshots
from tgi.testing.step_limits import (
    TOKEN_KINDS,
    Place,
    blocks_of_new_sequence,
    check_budgets,
    check_encoders,
    check_media,
    check_order,
    check_sampling,
    check_words,
    max_tokens_of,
    named_blocks,
    num_masks_of,
    require_rule,
)

__all__ = ["StepRules"]


@final
@dataclass(eq=False)
class _WorkerSequence:
    """A sequence that was introduced to the worker."""

    new: NewSequence
    end: int  # position after its last submitted token
    known: int  # number of tokens that were sent to the worker or requested from it
    owned: set[Place]
    shared: set[Place]
    num_blocks: list[int]  # per group
    is_prefilling: bool = True
    is_open: bool = False  # a row in flight may sample several tokens


@final
@dataclass(frozen=True)
class _InFlight:
    """A step that was submitted."""

    step_id: int
    places: set[Place]  # the cache blocks and sequence slots that the step reads or writes
    opened: dict[
        int, _WorkerSequence
    ]  # by handle: sequences with a row that may sample several tokens


@final
class StepRules:
    """Checks a stream of steps.

    Call `submit` with each step. Call `collect` when the oldest step is done, with the result of
    the step if there is one.
    """

    def __init__(self, agreement: Agreement) -> None:
        self._agreement = agreement
        self._sequences: dict[int, _WorkerSequence] = {}
        self._last_step_id = -1
        self._in_flight: deque[_InFlight] = deque()
        # Maps the ids of steps whose masks are not submitted yet to the numbers of masks of their
        # rows.
        self._unmasked: dict[int, Int32Array] = {}

    @property
    def num_sequences(self) -> int:
        """Number of sequences that were introduced to the worker and not dropped."""
        return len(self._sequences)

    def submit(self, step: SchedulerOutput) -> None:
        """Raise `BrokenRuleError` if the step violates a rule."""
        require_rule(
            step.step_id > self._last_step_id,
            f"The id of step {step.step_id} is not greater than that of the previous step,"
            f" {self._last_step_id}",
        )
        self._last_step_id = step.step_id
        self._check_size(step.rows)
        check_budgets(self._agreement, step)
        for handle in step.dropped:
            require_rule(
                handle in self._sequences,
                f"A step drops sequence {handle}, which was never introduced",
            )
            del self._sequences[handle]
        for new in step.added:
            self._introduce(new)
        require_rule(
            len(self._sequences) <= self._agreement.limits.max_sequences,
            f"The worker has {len(self._sequences)} sequences, but at most"
            f" {self._agreement.limits.max_sequences} were negotiated",
        )
        kinds = [self._check_row(step.rows, row) for row in range(step.rows.num_rows)]
        check_order(self._agreement, kinds)
        self._check_masks(step)
        check_encoders(self._agreement, step)
        check_copies(self._agreement, step)
        copied = check_snapshots(self._agreement, step, self._state_owners(), self._in_use())
        handles = step.rows.sequence[max_tokens_of(step.rows) > 1].tolist()
        opened = {handle: self._sequences[handle] for handle in handles}
        places = self._touched(step) | copied
        self._in_flight.append(_InFlight(step.step_id, places, opened))

    def submit_masks(self, masks: GrammarMasks) -> None:
        """Raise `BrokenRuleError` unless a step in flight waits for these masks."""
        require_rule(
            masks.step_id in self._unmasked,
            f"Masks were sent for step {masks.step_id}, which does not wait for masks",
        )
        check_words(self._agreement, masks, self._unmasked.pop(masks.step_id))

    def collect(self, output: ModelRunnerOutput | None = None) -> None:
        """Remove the oldest step.

        Without the result of the step, the ends of rows that may sample several tokens remain
        unknown.
        """
        oldest = self._in_flight.popleft()
        require_rule(
            oldest.step_id not in self._unmasked,
            f"The result of step {oldest.step_id} was requested before its masks were sent",
        )
        if output is None:
            return
        counts = dict(
            zip(output.sequence.tolist(), np.diff(output.token_ptr).tolist(), strict=True)
        )
        for handle, sequence in oldest.opened.items():
            if counts[handle]:
                sequence.end += counts[handle] - 1
                sequence.known = sequence.end + 1
                sequence.is_open = False

    def _check_size(self, rows: Rows) -> None:
        limits = self._agreement.limits
        num_tokens = int(rows.count.sum())
        require_rule(
            len(self._in_flight) < limits.depth,
            f"{len(self._in_flight) + 1} steps are in flight, but at most {limits.depth} were"
            " negotiated",
        )
        require_rule(
            rows.num_rows <= limits.max_sequences,
            f"A step has {rows.num_rows} rows, but at most {limits.max_sequences} were negotiated",
        )
        require_rule(
            num_tokens == rows.num_tokens,
            f"A step has {rows.num_tokens} tokens, but the sum of `count` is {num_tokens}",
        )
        require_rule(
            num_tokens + len(rows.draft) <= limits.max_step_tokens,
            f"A step has {num_tokens + len(rows.draft)} tokens, but at most"
            f" {limits.max_step_tokens} were negotiated",
        )
        require_rule(
            len(set(rows.sequence.tolist())) == rows.num_rows, "A sequence has two rows in one step"
        )
        lengths = {
            len(rows.start),
            len(rows.count),
            len(rows.sample),
            len(rows.draw),
            rows.num_rows,
        }
        require_rule(
            len(lengths) == 1, f"The arrays of a step have different lengths: {sorted(lengths)}"
        )
        require_rule(
            bool(((rows.draw >= 0) & (rows.draw < 1)).all()), "A value of `draw` is not in [0, 1)"
        )
        require_rule(
            len(rows.max_tokens) == (rows.num_rows if limits.tokens_per_step > 1 else 0),
            "The length of `max_tokens` does not match the negotiated limits: it must be the number"
            " of rows if `tokens_per_step` is above 1, and 0 otherwise",
        )

    def _check_masks(self, step: SchedulerOutput) -> None:
        feature = {"none": None, "inline": "mask", "late": "late_mask"}[step.mask]
        require_rule(
            feature is None or self._agreement.has(feature),
            f"A step has `mask` {step.mask}, but the feature `{feature}` was not negotiated",
        )
        require_rule(
            (step.masks is not None) == (step.mask == "inline"),
            f"`masks` must be set if `mask` is inline, and only then, but `mask` is {step.mask}",
        )
        handles = step.rows.sequence.tolist()
        is_masked = [self._sequences[handle].new.is_masked for handle in handles]
        num_masks = num_masks_of(step.rows, is_masked)
        if step.masks is not None:
            check_words(self._agreement, step.masks, num_masks)
        if step.mask == "late":
            self._unmasked[step.step_id] = num_masks

    def _introduce(self, new: NewSequence) -> None:
        limits = self._agreement.limits
        require_rule(
            new.sequence not in self._sequences,
            f"A new sequence has the handle {new.sequence}, which is in use",
        )
        require_rule(
            0 < len(new.tokens) <= limits.max_total_tokens,
            f"A new sequence has {len(new.tokens)} tokens, but 1 to {limits.max_total_tokens} are"
            " allowed",
        )
        require_rule(
            0 < new.num_prompt_tokens <= len(new.tokens),
            f"A prompt has {new.num_prompt_tokens} tokens, but 1 to {len(new.tokens)} are allowed",
        )
        require_rule(
            new.num_computed_tokens < len(new.tokens),
            "All tokens of a new sequence are marked as computed",
        )
        require_rule(
            not new.num_computed_tokens or self._agreement.has("prefix_cache"),
            "A sequence uses a cached prefix, but the feature `prefix_cache` was not negotiated",
        )
        require_rule(
            new.num_computed_tokens == 0 or not new.sampling.prompt_logprobs,
            "A sequence with `prompt_logprobs` uses a cached prefix",
        )
        check_sampling(self._agreement, new)
        check_media(self._agreement, new)
        owned, shared = blocks_of_new_sequence(self._agreement, new)
        self._claim(owned)
        counts = [len(table) for table in new.block_tables]
        start = new.num_computed_tokens
        self._sequences[new.sequence] = _WorkerSequence(
            new, start, len(new.tokens), owned, shared, counts
        )

    def _claim(self, places: set[Place]) -> None:
        """Require that no sequence owns or reads these cache blocks and sequence slots, and that no
        step in flight uses them.
        """
        if not places:
            return
        held = set().union(
            *((sequence.owned | sequence.shared) for sequence in self._sequences.values())
        )
        require_rule(
            not places & held,
            f"The blocks {sorted(places & held)} (cache group, block) belong to another sequence",
        )
        in_use = self._in_use()
        require_rule(
            not places & in_use,
            f"A step in flight uses the blocks {sorted(places & in_use)} (cache group, block)",
        )

    def _in_use(self) -> set[Place]:
        """Return the places that steps in flight use."""
        return set().union(*(step.places for step in self._in_flight))

    def _state_owners(self) -> dict[Place, int]:
        """Return the handle of the sequence to which each state belongs."""
        groups = enumerate(self._agreement.kv_cache.groups)
        states = [number for number, group in groups if group.kind == "state"]
        return {
            (number, int(sequence.new.block_tables[number][0])): handle
            for handle, sequence in self._sequences.items()
            for number in states
        }

    def _check_row(self, rows: Rows, row: int) -> bool:
        """Check a row. Returns whether it is a prefill."""
        limits = self._agreement.limits
        handle, start, count = int(rows.sequence[row]), int(rows.start[row]), int(rows.count[row])
        require_rule(
            handle in self._sequences,
            f"A step has a row of sequence {handle}, which was not introduced",
        )
        sequence = self._sequences[handle]
        require_rule(
            not sequence.is_open,
            f"Sequence {handle} has a new row, but the number of tokens of its previous row is not"
            " known yet",
        )
        require_rule(
            start == sequence.end,
            f"Sequence {handle} continues at position {start} instead of {sequence.end}",
        )
        require_rule(count > 0, f"A row of sequence {handle} has no tokens")
        end = start + count
        max_end = end + int(max_tokens_of(rows)[row]) - 1
        require_rule(
            max_end <= limits.max_total_tokens,
            f"Sequence {handle} may grow to {max_end} tokens, but at most"
            f" {limits.max_total_tokens} were negotiated",
        )
        is_prefill = sequence.is_prefilling
        if is_prefill and end < len(sequence.new.tokens):
            # A resumed sequence may be longer than a step.
            is_whole = count == limits.max_step_tokens
            require_rule(
                limits.chunked or is_whole,
                f"A row has a prefill chunk of {count} tokens, but chunks were not negotiated",
            )
            require_rule(
                not limits.chunked or count % limits.chunk_multiple == 0,
                f"A prefill chunk has {count} tokens, which is not a multiple of"
                f" {limits.chunk_multiple}",
            )
        require_rule(is_prefill or count == 1, f"A decode row has {count} tokens instead of 1")
        first = int(rows.count[:row].sum())
        self._check_tokens(sequence, start, rows.tokens[first : first + count].tolist())
        self._grow(rows, row, sequence, max_end)
        sequence.end, sequence.is_open = end, max_end > end
        sequence.is_prefilling = is_prefill and limits.chunked and end < len(sequence.new.tokens)
        if rows.sample[row]:
            require_rule(
                sequence.new.pooling == "none",
                f"A row samples a token for sequence {handle}, which is pooled",
            )
            require_rule(
                end >= sequence.known,
                f"Sequence {handle} samples the token at position {end}, which is already known",
            )
            sequence.known = end + 1
        return is_prefill

    def _check_tokens(self, sequence: _WorkerSequence, start: int, tokens: list[int]) -> None:
        for position, token in enumerate(tokens, start):
            if token == TOKEN_ON_DEVICE:
                require_rule(
                    self._agreement.has("device_token"),
                    "A row has a placeholder, but the feature `device_token` was not negotiated",
                )
                require_rule(
                    position >= len(sequence.new.tokens),
                    f"Position {position} has a placeholder, although its token was sent before",
                )
            else:
                require_rule(
                    0 <= token < self._agreement.vocab_size,
                    f"Token {token} is not in the vocabulary of {self._agreement.vocab_size} ids",
                )
                is_new = position >= len(sequence.new.tokens)
                require_rule(
                    is_new or token == int(sequence.new.tokens[position]),
                    f"The token at position {position} differs from the token that was sent before",
                )
            require_rule(
                position < sequence.known,
                f"A row contains position {position}, but its token was never sampled",
            )

    def _grow(self, rows: Rows, row: int, sequence: _WorkerSequence, end: int) -> None:
        plan = self._agreement.kv_cache
        if plan.mode == "slots":
            require_rule(
                end <= plan.sequence_slot_tokens,
                f"A sequence has {end} tokens, but its sequence slot has space for"
                f" {plan.sequence_slot_tokens}",
            )
            return
        for number, group in enumerate(plan.groups):
            first, last = rows.new_block_ptr[number][row : row + 2].tolist()
            blocks = named_blocks(
                self._agreement, number, rows.new_blocks[number].tolist()[first:last]
            )
            self._claim(blocks)
            sequence.owned |= blocks
            sequence.num_blocks[number] += len(blocks)
            needed = -(-end // plan.block_size) if group.kind in TOKEN_KINDS else 1
            require_rule(
                sequence.num_blocks[number] >= needed,
                f"A sequence of {end} tokens needs {needed} blocks, but it has"
                f" {sequence.num_blocks[number]}",
            )

    def _touched(self, step: SchedulerOutput) -> set[Place]:
        sequences = [self._sequences[handle] for handle in step.rows.sequence.tolist()]
        return set().union(*((sequence.owned | sequence.shared) for sequence in sequences))
