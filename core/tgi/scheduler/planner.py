"""Chooses the rows of the next step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import final

from tgi.backend import Agreement
from tgi.scheduler.prefill import PrefillInterruption, PrefillPace
from tgi.scheduler.records import SchedulerConfig
from tgi.scheduler.sequence import Sequence, SequenceState
from tgi.scheduler.state import SchedulerState
from tgi.scheduler.step import StepBuilder

__all__ = ["StepPlanner"]


@final
class StepPlanner:
    """Chooses the rows of each step. Decode rows come before prefill rows, and older sequences come
    before younger ones.

    If the blocks run out, the youngest running sequence is preempted: its blocks are freed, and it
    is recomputed later. Preemption does not change its output, because every random draw depends
    only on the seed and the output index. Preemption waits until no step is in flight, so that the
    results of all submitted tokens are known.

    With the feature `device_token` a sequence may be scheduled before its last token is known to
    the scheduler. With `multi_token` a decode row may choose as many tokens as were negotiated, and
    its sequence is not scheduled again until the row has been collected.

    A sequence with a constraint waits before a sampled row until its constraint allows the row. The
    parts of its prompt before that row are not delayed, and other sequences are scheduled
    meanwhile.
    """

    def __init__(
        self,
        state: SchedulerState,
        config: SchedulerConfig,
        clock: Callable[[], int],
        agreement: Agreement,
    ) -> None:
        self._state = state
        self._clock = clock
        self._has_device_token = agreement.has("device_token")
        self._has_late_mask = agreement.has("late_mask")
        has_multi_token = agreement.has("multi_token")
        self._tokens_per_step = state.limits.tokens_per_step if has_multi_token else 1
        self._separate = not (state.limits.mixed and state.limits.chunked)
        self._interruption = PrefillInterruption(config, state.limits, state.cache)
        self.pace = PrefillPace(state.limits)

    @property
    def join_reason(self) -> str:
        """The reason for the last admission of prompts: "chunking", "backpressure" or
        "wait_exceeded".
        """
        return self._interruption.join_reason

    def plan(self, step_id: int) -> StepBuilder:
        """Return the rows of the next step. Sequences of a failed step are scheduled first, in
        separate steps.
        """
        limits, retries = self._state.limits, self._state.retries
        if retries.has_failed_sequences:
            retry = StepBuilder(step_id, retries.max_tokens, retries.max_rows)
            self._plan_retry(retry)
            if retry.sequences:
                return retry
        step = StepBuilder(step_id, limits.max_step_tokens, limits.max_sequences)
        if self._separate:
            self._plan_separate(step)
        elif not self._plan_long_encoder(step) and self._plan_decodes(
            step, self._state.running.values()
        ):
            delays_others = bool(step.sequences)
            self._plan_prefills(
                step, self._state.running.values(), admit=True, delays_others=delays_others
            )
        return step

    def _plan_retry(self, step: StepBuilder) -> None:
        """Add only rows of sequences whose step failed. Each of these sequences is running, or is
        at the head of the queue.
        """
        failed_sequences = [
            sequence for sequence in self._state.running.values() if sequence.has_failed_step
        ]
        is_ready = self._plan_decodes(step, failed_sequences)
        if is_ready and not (step.sequences and self._separate):
            self._plan_prefills(step, failed_sequences, admit=True, with_failed_step=True)

    def _plan_separate(self, step: StepBuilder) -> None:
        """Plan a step that has either prefill rows or decode rows. `PrefillInterruption` decides
        when new prompts interrupt decoding.
        """
        running = self._state.running
        is_decoding = any(not sequence.is_prefilling for sequence in running.values())
        admit = not is_decoding or self._interruption.is_due(self._state.queue, len(running))
        self._plan_prefills(step, running.values(), admit=admit, delays_others=is_decoding)
        if step.sequences:
            self._interruption.note_prefill_step()
        else:
            self._interruption.note_decode_step()
            self._plan_decodes(step, running.values())

    def _plan_decodes(self, step: StepBuilder, sequences: Iterable[Sequence]) -> bool:
        """Add the decode rows of running sequences. Returns False if the blocks ran out and the
        steps in flight must be collected first.
        """
        state, may_be_pending = self._state, self._has_device_token
        ready = [
            sequence
            for sequence in sequences
            if sequence.num_submitted_tokens >= sequence.num_prefill_tokens
            and len(sequence.token_ids) + sequence.num_pending_tokens < sequence.max_tokens
            and (may_be_pending or not sequence.num_pending_tokens)
            and not sequence.has_open_row
            and (sequence.constraint is None or self._may_run(sequence, 1))
        ]
        del ready[min(step.token_budget, step.row_budget) :]
        for sequence in state.cache.find_full(ready):
            if sequence.state is not SequenceState.RUNNING:
                break  # this sequence and all younger ones were preempted
            while not state.cache.grow(sequence, sequence.num_submitted_tokens + 1):
                if state.in_flight:
                    return False
                youngest = next(reversed(state.running.values()))
                state.preempt(youngest)
                if youngest is sequence:
                    break
        if state.num_preempted:
            ready = [sequence for sequence in ready if sequence.state is SequenceState.RUNNING]
        first_row = len(step.sequences)
        step.add_rows(ready, 1)
        if self._tokens_per_step > 1:
            self._open_rows(step, first_row)
        return True

    def _open_rows(self, step: StepBuilder, first_row: int) -> None:
        """Let decode rows choose several tokens, as far as the sequences' length limits and the
        free blocks allow. A constrained row chooses one token, because only its mask can be
        computed before the token is known.
        """
        for row, sequence in enumerate(step.sequences[first_row:], first_row):
            if not step.samples[row] or sequence.constraint is not None:
                continue  # without a sample, the next token was known before a preemption
            num_left = sequence.max_tokens - sequence.num_tokens - sequence.num_pending_tokens + 1
            wanted = min(self._tokens_per_step, num_left)
            step.open_row(
                row,
                (
                    wanted
                    if self._state.cache.grow(sequence, sequence.num_submitted_tokens + wanted - 1)
                    else 1
                ),
            )

    def _plan_prefills(
        self,
        step: StepBuilder,
        running: Iterable[Sequence],
        *,
        admit: bool,
        with_failed_step: bool = False,
        delays_others: bool = False,
    ) -> None:
        """Add prefill rows: first the sequences whose prefill has begun, then, with `admit`,
        waiting sequences from the head of the queue. `delays_others` means that other sequences
        wait for their next token until the step has ended.

        Sequences of a failed step are admitted only if `with_failed_step` is set, and other
        sequences only if it is not. After a preemption no sequence is admitted in the same step.
        """
        state = self._state
        prefilling = [s for s in running if s.num_submitted_tokens < s.num_prefill_tokens]
        if not prefilling and not (admit and state.may_admit):
            return
        if delays_others and state.limits.chunked:
            limit = self.pace.max_prefill_tokens(len(step.sequences))
            step.token_budget = min(step.token_budget, limit)
        for sequence in prefilling:
            if not (self._add_prefill_row(step, sequence) or self._waits(sequence)):
                return
        if admit:
            self._plan_admissions(step, with_failed_step=with_failed_step)

    def _plan_admissions(self, step: StepBuilder, *, with_failed_step: bool) -> None:
        """Admit waiting sequences from the head of the queue. Sequences that wait only for their
        constraints are skipped.
        """
        state, skipped = self._state, set[int]()
        while state.may_admit and not state.num_preempted:
            head = state.queue.head(skipped)
            if head is None:
                return
            if head.has_failed_step == with_failed_step and self._admit(step, head):
                continue
            if not self._waits(head):
                return
            skipped.add(head.sequence_id)

    def _plan_long_encoder(self, step: StepBuilder) -> bool:
        """Admit the head of the queue before the decode rows are added, if its encoder tokens do
        not fit into a step together with all decode rows. An encoder must run in one step. Returns
        whether it was admitted.
        """
        state = self._state
        head = state.queue.head() if state.may_admit else None
        if head is None or head.has_failed_step:
            return False
        is_long = (
            head.num_encoder_tokens > 0
            and head.num_encoder_tokens + len(state.running) >= state.limits.max_step_tokens
        )
        return is_long and self._admit(step, head)

    def _add_prefill_row(self, step: StepBuilder, sequence: Sequence) -> bool:
        count = self._num_prefill_tokens(step, sequence)
        if count == 0:
            return False
        snapshots = self._state.cache.snapshots
        copy = None if snapshots is None else snapshots.save(sequence)
        if copy is not None:
            step.copies.append(copy)
        step.add_rows([sequence], count)
        step.num_prefill_rows += 1
        return True

    def _num_prefill_tokens(self, step: StepBuilder, sequence: Sequence) -> int:
        """Return the number of tokens in the next prefill row of a sequence. The number is 0 if the
        sequence gets no row in this step.
        """
        limits = self._state.limits
        if step.row_budget < 1 or (
            limits.max_prefills and step.num_prefill_rows >= limits.max_prefills
        ):
            return 0
        remaining = sequence.num_prefill_tokens - sequence.num_submitted_tokens
        to_snapshot = sequence.num_tokens_to_snapshot
        if to_snapshot:
            remaining = to_snapshot  # the row ends where a snapshot is taken
        elif remaining <= step.token_budget:
            if sequence.constraint is None or self._may_run(sequence, remaining):
                return remaining
            remaining -= 1  # the row that samples a token runs later
        if not limits.chunked:
            return 0
        num_tokens = min(remaining, step.token_budget)
        return num_tokens - num_tokens % limits.chunk_multiple

    def _admit(self, step: StepBuilder, sequence: Sequence) -> bool:
        """Admit the head of the queue and add its first row. Returns False if the sequence does not
        fit into the step or the cache, or if its first row must wait for its constraint.
        """
        state = self._state
        if sequence.constraint is not None and not self._may_start(sequence):
            return False
        if not step.has_budget(sequence) or not state.cache.admit(sequence, len(state.running)):
            return False
        sequence.num_submitted_tokens = sequence.num_computed_tokens
        sequence.num_prefill_tokens = sequence.num_tokens
        if not state.limits.chunked:
            # Only a resumed sequence can be longer than a step. The rest of its output is replayed
            # in decode rows.
            longest = sequence.num_computed_tokens + state.limits.max_step_tokens
            sequence.num_prefill_tokens = min(sequence.num_tokens, longest)
        step.charge_encoder(sequence)
        if self._num_prefill_tokens(step, sequence) == 0:
            state.cache.release(sequence, in_use=False)
            sequence.reset_progress()
            return False
        state.run(sequence)
        if not sequence.has_run:
            sequence.has_run = True
            sequence.queue_ns = self._clock() - sequence.arrival_ns
            sequence.num_cached_tokens = sequence.num_computed_tokens
            step.num_new_sequences += 1
        step.introduce(sequence, state.cache)
        return self._add_prefill_row(step, sequence)

    def _may_run(self, sequence: Sequence, count: int) -> bool:
        """Whether the constraint of a sequence allows a row with the sequence's next `count`
        tokens.
        """
        constraint, num_pending = sequence.constraint, sequence.num_pending_tokens
        if constraint is None:
            return True
        end = sequence.num_submitted_tokens + count
        if end < len(sequence.token_ids) + num_pending:
            return True  # no token is sampled
        if num_pending and not self._has_late_mask:
            return False
        return constraint.may_sample(is_pending=num_pending > 0)

    def _may_start(self, sequence: Sequence) -> bool:
        """Whether a waiting sequence may have a first row. Prefill chunks before the sampled row
        need no mask.
        """
        limits = self._state.limits
        can_divide = limits.chunked and not sequence.num_encoder_tokens
        return (can_divide and sequence.num_tokens > limits.chunk_multiple) or self._may_run(
            sequence, sequence.num_tokens
        )

    def _waits(self, sequence: Sequence) -> bool:
        """Whether the constraint of a sequence does not allow the last row of its prefill."""
        return sequence.constraint is not None and not self._may_run(
            sequence, sequence.num_tokens - sequence.num_submitted_tokens
        )
