"""Checks that the core follows the rules of the backend interface. The conformance suite checks the
same of a backend.

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
from tgi.testing.step_limits import (
    Place,
    check_budgets,
    check_copies,
    check_encoders,
    check_media,
    check_order,
    check_sampling,
    check_words,
    max_tokens_of,
    named_blocks,
    require_rule,
)

__all__ = ["StepRules"]

_TOKEN_KINDS = ("full", "window")


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
    places: set[Place]  # the places that the step reads or writes
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
        # Step ids whose masks are not submitted yet → maximum tokens of their rows.
        self._unmasked: dict[int, Int32Array] = {}

    @property
    def num_sequences(self) -> int:
        """Number of sequences that were introduced to the worker and not dropped."""
        return len(self._sequences)

    def submit(self, step: SchedulerOutput) -> None:
        """Raise `BrokenRuleError` if the step violates a rule."""
        require_rule(
            step.step_id > self._last_step_id,
            f"step {step.step_id} follows step {self._last_step_id}",
        )
        self._last_step_id = step.step_id
        self._check_size(step.rows)
        check_budgets(self._agreement, step)
        self._check_masks(step)
        for handle in step.dropped:
            require_rule(
                handle in self._sequences, f"sequence {handle} is dropped but was never introduced"
            )
            del self._sequences[handle]
        for new in step.added:
            self._introduce(new)
        require_rule(
            len(self._sequences) <= self._agreement.limits.max_sequences,
            f"{len(self._sequences)} sequences are alive",
        )
        kinds = [self._check_row(step.rows, row) for row in range(step.rows.num_rows)]
        check_order(self._agreement, kinds)
        check_encoders(self._agreement, step)
        check_copies(self._agreement, step)
        handles = step.rows.sequence[max_tokens_of(step.rows) > 1].tolist()
        opened = {handle: self._sequences[handle] for handle in handles}
        self._in_flight.append(_InFlight(step.step_id, self._touched(step), opened))

    def submit_masks(self, masks: GrammarMasks) -> None:
        """Raise `BrokenRuleError` unless a step in flight waits for these masks."""
        require_rule(
            masks.step_id in self._unmasked, f"masks of step {masks.step_id}, which waits for none"
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
            f"the result of step {oldest.step_id} was requested before its masks were sent",
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
            len(self._in_flight) < limits.depth, f"{len(self._in_flight) + 1} steps are in flight"
        )
        require_rule(rows.num_rows <= limits.max_sequences, f"{rows.num_rows} rows")
        require_rule(
            num_tokens == rows.num_tokens, f"{rows.num_tokens} tokens for counts of {num_tokens}"
        )
        require_rule(
            num_tokens + len(rows.draft) <= limits.max_step_tokens,
            f"{num_tokens + len(rows.draft)} tokens in a step",
        )
        require_rule(
            len(set(rows.sequence.tolist())) == rows.num_rows, "a sequence has two rows in one step"
        )
        lengths = {
            len(rows.start),
            len(rows.count),
            len(rows.sample),
            len(rows.draw),
            rows.num_rows,
        }
        require_rule(len(lengths) == 1, f"arrays of lengths {sorted(lengths)}")
        require_rule(bool(((rows.draw >= 0) & (rows.draw < 1)).all()), "a draw outside [0, 1)")
        require_rule(
            len(rows.max_tokens) == (rows.num_rows if limits.tokens_per_step > 1 else 0),
            "`max_tokens` does not match the negotiated limits",
        )

    def _check_masks(self, step: SchedulerOutput) -> None:
        feature = {"none": None, "inline": "mask", "late": "late_mask"}[step.mask]
        require_rule(
            feature is None or self._agreement.has(feature),
            f"a mask ({step.mask}) was not negotiated",
        )
        require_rule(
            (step.masks is not None) == (step.mask == "inline"),
            f"a step with `mask` {step.mask} and masks that do not match",
        )
        if step.masks is not None:
            check_words(self._agreement, step.masks, max_tokens_of(step.rows))
        if step.mask == "late":
            self._unmasked[step.step_id] = max_tokens_of(step.rows)

    def _introduce(self, new: NewSequence) -> None:
        plan, limits = self._agreement.kv_cache, self._agreement.limits
        require_rule(new.sequence not in self._sequences, f"handle {new.sequence} is in use")
        require_rule(
            0 < len(new.tokens) <= limits.max_total_tokens,
            f"a sequence of {len(new.tokens)} tokens",
        )
        require_rule(
            0 < new.num_prompt_tokens <= len(new.tokens),
            f"a prompt of {new.num_prompt_tokens} tokens",
        )
        require_rule(
            new.num_computed_tokens < len(new.tokens),
            "nothing of a new sequence is left to compute",
        )
        require_rule(
            not new.num_computed_tokens or self._agreement.has("prefix_cache"),
            "a prefix hit was not negotiated",
        )
        require_rule(
            new.num_computed_tokens == 0 or not new.sampling.prompt_logprobs,
            "a scored prompt must not use prefix hits",
        )
        check_sampling(self._agreement, new)
        check_media(self._agreement, new)
        if plan.mode == "slots":
            require_rule(
                0 <= new.sequence_slot < plan.num_sequence_slots and not new.block_tables,
                f"sequence slot {new.sequence_slot} of {plan.num_sequence_slots}",
            )
            owned, shared = {(-1, new.sequence_slot)}, set[Place]()
        else:
            require_rule(
                len(new.block_tables) == len(plan.groups), f"{len(new.block_tables)} block tables"
            )
            skipped = new.num_computed_tokens // (plan.block_size or 1)
            owned, shared = set(), set()
            for number, (group, table) in enumerate(
                zip(plan.groups, new.block_tables, strict=True)
            ):
                skip = skipped if group.kind in _TOKEN_KINDS else 0
                if group.kind == "cross":
                    needed = -(-len(new.encoder_tokens) // plan.block_size)
                    require_rule(
                        0 < needed == len(table),
                        f"{len(new.encoder_tokens)} encoder tokens in {len(table)} blocks",
                    )
                shared |= {(number, block) for block in table.tolist()[:skip]}
                owned |= named_blocks(self._agreement, number, table.tolist()[skip:])
        self._claim(owned)
        counts = [len(table) for table in new.block_tables]
        start = new.num_computed_tokens
        self._sequences[new.sequence] = _WorkerSequence(
            new, start, len(new.tokens), owned, shared, counts
        )

    def _claim(self, places: set[Place]) -> None:
        """Require that no sequence owns or reads these places, and that no step in flight uses
        these places.
        """
        if not places:
            return
        held = set().union(
            *((sequence.owned | sequence.shared) for sequence in self._sequences.values())
        )
        require_rule(not places & held, f"{sorted(places & held)} belong to another sequence")
        in_use = set().union(*(step.places for step in self._in_flight))
        require_rule(not places & in_use, f"{sorted(places & in_use)} are used by a step in flight")

    def _check_row(self, rows: Rows, row: int) -> bool:
        """Check a row. Returns whether it is a prefill."""
        limits = self._agreement.limits
        handle, start, count = int(rows.sequence[row]), int(rows.start[row]), int(rows.count[row])
        require_rule(
            handle in self._sequences, f"a row of sequence {handle}, which was not introduced"
        )
        sequence = self._sequences[handle]
        require_rule(
            not sequence.is_open,
            f"a row of sequence {handle} follows one of several tokens, whose end is not known",
        )
        require_rule(
            start == sequence.end, f"sequence {handle} continues at {start}, not at {sequence.end}"
        )
        require_rule(count > 0, f"an empty row of sequence {handle}")
        end = start + count
        max_end = end + int(max_tokens_of(rows)[row]) - 1
        require_rule(max_end <= limits.max_total_tokens, f"sequence {handle} gets {max_end} tokens")
        is_prefill = sequence.is_prefilling
        if is_prefill and end < len(sequence.new.tokens):
            # A resumed sequence may be longer than a step.
            is_whole = count == limits.max_step_tokens
            require_rule(
                limits.chunked or is_whole,
                f"a prefill chunk of {count} tokens was not negotiated",
            )
            require_rule(
                not limits.chunked or count % limits.chunk_multiple == 0,
                f"a prefill chunk of {count} tokens",
            )
        require_rule(is_prefill or count == 1, f"a decode row of {count} tokens")
        first = int(rows.count[:row].sum())
        self._check_tokens(sequence, start, rows.tokens[first : first + count].tolist())
        self._grow(rows, row, sequence, max_end)
        sequence.end, sequence.is_open = end, max_end > end
        sequence.is_prefilling = is_prefill and limits.chunked and end < len(sequence.new.tokens)
        if rows.sample[row]:
            require_rule(sequence.new.pooling == "none", f"a token of the pooled sequence {handle}")
            require_rule(
                end >= sequence.known,
                f"a token after position {end - 1} of sequence {handle}, which is known",
            )
            sequence.known = end + 1
        return is_prefill

    def _check_tokens(self, sequence: _WorkerSequence, start: int, tokens: list[int]) -> None:
        for position, token in enumerate(tokens, start):
            if token == TOKEN_ON_DEVICE:
                require_rule(
                    self._agreement.has("device_token"), "a token on the device was not negotiated"
                )
                require_rule(
                    position >= len(sequence.new.tokens),
                    "a placeholder for a token that was sent",
                )
            else:
                require_rule(
                    0 <= token < self._agreement.vocab_size,
                    f"token {token} is not in the vocabulary",
                )
                is_new = position >= len(sequence.new.tokens)
                require_rule(
                    is_new or token == int(sequence.new.tokens[position]),
                    f"another token at position {position}",
                )
            require_rule(
                position < sequence.known,
                f"position {position} follows a token that was never sampled",
            )

    def _grow(self, rows: Rows, row: int, sequence: _WorkerSequence, end: int) -> None:
        plan = self._agreement.kv_cache
        if plan.mode == "slots":
            require_rule(
                end <= plan.sequence_slot_tokens,
                f"{end} tokens in a sequence slot of {plan.sequence_slot_tokens}",
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
            needed = -(-end // plan.block_size) if group.kind in _TOKEN_KINDS else 1
            require_rule(
                sequence.num_blocks[number] >= needed,
                f"{end} tokens in {sequence.num_blocks[number]} blocks",
            )

    def _touched(self, step: SchedulerOutput) -> set[Place]:
        sequences = [self._sequences[handle] for handle in step.rows.sequence.tolist()]
        return set().union(*((sequence.owned | sequence.shared) for sequence in sequences))
