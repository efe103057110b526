"""Chooses the rows of the next step, and decides when waiting prompts interrupt decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, final

from tgi.backend import Limits, StepTimes
from tgi.scheduler.kv_cache_manager import CacheNeed, KVCacheManager
from tgi.scheduler.records import SchedulerConfig
from tgi.scheduler.sequence import Sequence, SequenceState
from tgi.scheduler.state import SchedulerState, WaitingQueue
from tgi.scheduler.step import StepBuilder

__all__ = ["PrefillInterruption", "PrefillPace", "StepPlanner"]

# While sequences decode, no client should wait longer than half a second for its next token. The
# rest of this time is a margin, because a chunk is slower the more tokens precede it.
_STEP_NS = 420_000_000
# Minimum size of a prefill, so that it advances even if decoding alone takes longer
_MIN_TOKENS = 8
# Up to this number of tokens, most of the duration of a step does not depend on the number.
_FEW_TOKENS = 64


@final
class PrefillInterruption:
    """Decides when waiting prompts may interrupt decoding. This is allowed after
    `max_waiting_tokens` decode steps. It is also allowed if at least `waiting_served_ratio` x
    (number of running sequences) sequences wait, and this number of waiting sequences fits.
    """

    def __init__(self, config: SchedulerConfig, limits: Limits, cache: KVCacheManager) -> None:
        self._config = config
        self._limits = limits
        self._cache = cache
        self._num_decode_steps = 0  # number of decode steps since the last prefill step
        # The reason for the last admission. The reason is always "chunking" if prefill and decode
        # rows share steps, because then no step interrupts decoding.
        self.join_reason = "chunking"

    def note_prefill_step(self) -> None:
        """Record that a step of prefill rows was planned."""
        self._num_decode_steps = 1

    def note_decode_step(self) -> None:
        """Record that a step of decode rows was planned."""
        self._num_decode_steps += 1

    def is_due(self, waiting: WaitingQueue, num_running: int) -> bool:
        """Whether waiting sequences may be admitted now, in addition to `num_running` running
        sequences.
        """
        if self._num_decode_steps >= self._config.max_waiting_tokens:
            self.join_reason = "wait_exceeded"
            return True
        self.join_reason = "backpressure"
        min_size = int(num_running * self._config.waiting_served_ratio)
        if self._limits.max_prefills:
            min_size = min(min_size, self._limits.max_prefills)
        return self._can_join(waiting, num_running, min_size)

    def _can_join(self, waiting: WaitingQueue, num_running: int, min_size: int) -> bool:
        """Whether the first `min_size` waiting sequences fit into the next step and the cache."""
        limits, num_tokens, need = self._limits, 0, CacheNeed()
        for place, sequence in enumerate(waiting):
            if place == min_size:
                return True
            num_tokens += sequence.num_tokens + sequence.num_encoder_tokens
            need += self._cache.need(sequence)
            fits = limits.chunked or num_tokens <= limits.max_step_tokens
            has_place = num_running + place < limits.max_sequences
            if not (fits and has_place and self._cache.can_allocate(need, num_running)):
                return False
        return len(waiting) >= min_size


class _Pace(NamedTuple):
    num_tokens: int
    step_ns: int


@final
class PrefillPace:
    """Limits the tokens of a step with prefill rows in which other sequences wait for their next
    token.

    The durations that the worker measures determine the limit. A step of n tokens takes about
    a + b * n. The latest step with few tokens and the latest step with many tokens give a and b.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._few: _Pace | None = None
        self._many: _Pace | None = None
        # The latest step without prefill rows. It is read only when a limit is needed.
        self.decode_step: tuple[int, StepTimes] | None = None

    def note(self, num_tokens: int, times: StepTimes) -> None:
        """Record the duration of a step. A worker may leave all durations 0."""
        step_ns = times.prepare + times.forward + times.sample
        if step_ns and num_tokens <= _FEW_TOKENS:
            self._few = _Pace(num_tokens, step_ns)
        elif step_ns:
            self._many = _Pace(num_tokens, step_ns)

    def max_prefill_tokens(self, num_decode_rows: int) -> int:
        """Return the maximum number of prefill tokens in a step with `num_decode_rows` others."""
        if self.decode_step is not None:
            self.note(*self.decode_step)
            self.decode_step = None
        smallest = max(_MIN_TOKENS, self._limits.chunk_multiple)
        few, many, largest = self._few, self._many, self._limits.max_step_tokens
        if few is None or many is None:
            known = few or many
            if known is None:
                return largest
            # The time of a step, divided by its tokens, is an upper bound of b for larger steps.
            limit = known.num_tokens * _STEP_NS // known.step_ns
            limit = limit if limit >= known.num_tokens else smallest
        else:
            limit = _largest_step(few, many)
        return max(smallest, limit - num_decode_rows)


def _largest_step(few: _Pace, many: _Pace) -> int:
    """Return the number of tokens with which a step lasts `_STEP_NS`. One of the two steps may have
    been slow by chance, and it must not determine the result until it is measured again.
    """
    per_token = (many.step_ns - few.step_ns) / (many.num_tokens - few.num_tokens)
    if per_token <= 0:  # the small step was slow
        return many.num_tokens * _STEP_NS // many.step_ns
    limit = few.num_tokens + int((_STEP_NS - few.step_ns) / per_token)
    # The time of the small step, divided by its tokens, is an upper bound of b. It gives a limit
    # that is certain, also if the large step was slow.
    least = few.num_tokens * _STEP_NS // few.step_ns
    return max(limit, least) if least > few.num_tokens else limit


@final
class StepPlanner:
    """Chooses the rows of each step. Decode rows come before prefill rows, and older sequences come
    before younger ones.

    If the blocks run out, the youngest running sequence is preempted: its blocks are freed, and it
    is recomputed later. Preemption does not change its output, because every random draw depends
    only on the seed and the output index. Preemption waits until no step is in flight, so that the
    results of all submitted tokens are known.

    With `has_device_token` a sequence may be scheduled before its last token is known to the
    scheduler. With `has_multi_token` a decode row may choose as many tokens as were negotiated, and
    its sequence is not scheduled again until the row has been collected.
    """

    def __init__(
        self,
        state: SchedulerState,
        config: SchedulerConfig,
        clock: Callable[[], int],
        *,
        has_device_token: bool,
        has_multi_token: bool,
    ) -> None:
        self._state = state
        self._clock = clock
        self._has_device_token = has_device_token
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
        free blocks allow.
        """
        for row, sequence in enumerate(step.sequences[first_row:], first_row):
            if not step.samples[row]:
                continue  # the next token is already known, because the sequence was preempted
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
            if not self._add_prefill_row(step, sequence):
                return
        while (
            admit
            and state.may_admit
            and not state.num_preempted
            and state.queue.head().has_failed_step == with_failed_step
        ):
            if not self._admit(step, state.queue.head()):
                return

    def _plan_long_encoder(self, step: StepBuilder) -> bool:
        """Admit the head of the queue before the decode rows are added, if its encoder tokens do
        not fit into a step together with all decode rows. An encoder must run in one step. Returns
        whether it was admitted.
        """
        state = self._state
        if not state.may_admit or state.queue.head().has_failed_step:
            return False
        head = state.queue.head()
        is_long = (
            head.num_encoder_tokens > 0
            and head.num_encoder_tokens + len(state.running) >= state.limits.max_step_tokens
        )
        return is_long and self._admit(step, head)

    def _add_prefill_row(self, step: StepBuilder, sequence: Sequence) -> bool:
        count = self._num_prefill_tokens(step, sequence)
        if count == 0:
            return False
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
        if remaining <= step.token_budget:
            return remaining
        return (
            step.token_budget - step.token_budget % limits.chunk_multiple if limits.chunked else 0
        )

    def _admit(self, step: StepBuilder, sequence: Sequence) -> bool:
        """Admit the head of the queue and add its first row. Returns False if the sequence does not
        fit into the step or the cache.
        """
        state = self._state
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
