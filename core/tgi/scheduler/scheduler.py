"""One decision per step: who runs, with how many tokens, in which blocks. Steered by the agreement alone."""

from __future__ import annotations

import heapq
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import final

import msgspec

from tgi.backend import Agreement, ModelRunnerOutput, SchedulerOutput
from tgi.scheduler.kv_cache_manager import CacheNeed, KVCacheManager
from tgi.scheduler.limits import check_limits, find_refusal
from tgi.scheduler.prefix_cache import HASH_KEY_BYTES
from tgi.scheduler.queue import WaitingQueue
from tgi.scheduler.records import NewSequenceRequest, SchedulerConfig, SchedulerStats, SequenceOutput, TokenOutput
from tgi.scheduler.result import StepResult, next_prompt_logprobs
from tgi.scheduler.sequence import Sequence, SequenceState
from tgi.scheduler.step import Row, StepBuilder, StepInFlight
from tgi.types import FinishReason

__all__ = ["Scheduler"]

_MAX_RETRIES = 2  # of the rows of a failed step, without a token in between


@final
class Scheduler:
    """Continuous batching: waiting sequences join in the order of their arrival, running ones leave the step they end.

    Decode rows come before prefill rows, older sequences before younger ones. When blocks run out the youngest running sequence
    gives its up and is computed again later; its draws depend on (seed, output index) alone, so its output stays. A preemption
    waits until no step is in flight: then nothing is known too late. Time enters by `clock` (ns), randomness by `hash_key` only.
    """

    def __init__(
        self,
        agreement: Agreement,
        config: SchedulerConfig,
        clock: Callable[[], int] = time.monotonic_ns,
        hash_key: bytes | None = None,
    ) -> None:
        self._limits = agreement.limits
        check_limits(self._limits)
        self._config = config
        self._clock = clock
        self._knows_device_token = agreement.has("device_token")
        key = (hash_key or secrets.token_bytes(HASH_KEY_BYTES)) if config.prefix_cache else None
        self._cache = KVCacheManager(agreement, key)
        self._separate = not (self._limits.mixed and self._limits.chunked)
        self._queue = WaitingQueue()
        self._running: dict[int, Sequence] = {}  # by id, in order of admission
        self._sequences: dict[int, Sequence] = {}  # waiting and running
        self._in_flight: deque[StepInFlight] = deque()
        self._dropped: list[int] = []
        self._free_handles: list[int] = []  # heap
        self._num_handles = 0
        self._next_step_id = 0
        self._num_decode_steps = 0  # since the last prefill step
        self._join_reason = "chunking"  # where nothing has to be interrupted
        self._num_preempted = 0  # since the last step
        self._last_stats = SchedulerStats()

    @property
    def has_work(self) -> bool:
        """Whether a sequence waits or runs, or the worker has yet to hear of one that ended."""
        return bool(self._sequences or self._dropped)

    @property
    def num_in_flight(self) -> int:
        """Steps decided and not yet updated or failed."""
        return len(self._in_flight)

    def add(self, request: NewSequenceRequest) -> SequenceOutput | None:
        """Queue a sequence. One that can never run, or that is already complete, ends at once with the output returned."""
        sequence = Sequence.of(request, self._limits.max_total_tokens, self._clock())
        error = find_refusal(sequence, self._limits, self._cache)
        if request.sequence_id in self._sequences:
            error = f"Sequence {request.sequence_id} is already being worked on"
        if error is not None:
            return SequenceOutput(request.sequence_id, error=error)
        if request.output_token_ids:
            # The first output token comes after the whole prompt was scored.
            sequence.num_sent_prompt_logprobs = sequence.num_prompt_tokens
            reason = sequence.finish_reason
            if reason is not None:
                return SequenceOutput(request.sequence_id, finish_reason=reason)
        self._sequences[sequence.sequence_id] = sequence
        self._queue.append(sequence)
        return None

    def abort(self, sequence_id: int) -> None:
        """Forget a sequence without an output. One that ended already is no error."""
        sequence = self._sequences.get(sequence_id)
        if sequence is None:
            return
        if sequence.state is SequenceState.WAITING:
            self._queue.remove(sequence)
        self._finish(sequence)

    def schedule(self) -> SchedulerOutput | None:
        """Decide the next step; None = nothing can run before a step in flight is collected, or at all."""
        self._last_stats = SchedulerStats()
        if len(self._in_flight) >= self._limits.depth:
            return None
        step = StepBuilder(self._next_step_id, self._limits.max_step_tokens)
        num_running = len(self._running)
        if self._separate:
            self._plan_separate(step)
        elif not self._plan_long_encoder(step) and self._plan_decodes(step):
            # Whoever was preempted in this step must not come back in it.
            self._plan_prefills(step, admit=not self._num_preempted)
        is_flush = bool(self._dropped) and not self._in_flight
        if not step.rows and not is_flush:
            return None
        return self._emit(step, num_running)

    def update(self, output: ModelRunnerOutput) -> list[SequenceOutput]:
        """Apply the result of the oldest step in flight. Raises RuntimeError if it is not what was asked for."""
        if not self._in_flight or self._in_flight[0].step_id != output.step_id:
            raise RuntimeError(f"the worker returned step {output.step_id}, which is not the oldest one in flight")
        step = self._in_flight.popleft()
        result = StepResult.of(output, step.rows)
        outputs = []
        for index, row in enumerate(step.rows):
            if row.is_valid:
                sequence_output = self._apply(row, index, result)
                if sequence_output is not None:
                    outputs.append(sequence_output)
        self._collected(step)
        return outputs

    def fail_step(self, step_id: int, message: str, retryable: bool) -> list[SequenceOutput]:
        """A step in flight failed as a whole; its drops and new sequences count as done, its rows as not done.

        If it may be tried again its sequences return to the front of the queue, a few times; else they end with `message`.
        """
        step = next(step for step in self._in_flight if step.step_id == step_id)
        self._in_flight.remove(step)
        outputs = []
        # From the youngest to the oldest, so that the oldest ends up at the head of the queue.
        order = {sequence_id: place for place, sequence_id in enumerate(self._running)}
        rows = [row for row in step.rows if row.is_valid]
        for row in sorted(rows, key=lambda row: order[row.sequence.sequence_id], reverse=True):
            sequence = row.sequence
            if retryable and sequence.num_retries < _MAX_RETRIES:
                sequence.num_retries += 1
                self._requeue(sequence)
            else:
                outputs.append(self._output(sequence, error=message))
                self._finish(sequence)
        self._collected(step)
        return outputs

    def stats(self) -> SchedulerStats:
        """Gauges of now, and the counters of the last updated or failed step unless `schedule` was called since."""
        return msgspec.structs.replace(
            self._last_stats,
            num_waiting=len(self._queue),
            num_running=len(self._running),
            num_used_tokens=self._cache.num_used_tokens,
            num_free_blocks=self._cache.num_free,
            num_cached_blocks=self._cache.blocks.num_cached,
        )

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken: lost blocks or slots, wrong counts, a sequence in two places."""
        self._cache.check(self._running.values())
        waiting = {sequence.sequence_id for sequence in self._queue}
        assert not waiting & self._running.keys(), "a sequence waits and runs"
        assert waiting | self._running.keys() == self._sequences.keys(), "a sequence neither waits nor runs"
        handles = [sequence.handle for sequence in self._running.values()]
        named = sorted([*handles, *self._dropped, *self._free_handles])
        assert named == list(range(self._num_handles)), f"handles are lost or used twice: {named} of {self._num_handles}"
        for sequence in self._sequences.values():
            sequence.check(self._cache.block_size)
        assert self._in_flight or all(not s.num_pending_tokens for s in self._running.values()), "a token is pending in no step"

    # Planning

    def _plan_separate(self, step: StepBuilder) -> None:
        """A step of prefill rows, or of decode rows. New prompts interrupt decoding as TGI's two options say."""
        is_decoding = any(not sequence.is_prefilling for sequence in self._running.values())
        self._plan_prefills(step, admit=not is_decoding or self._may_interrupt())
        if step.rows:
            self._num_decode_steps = 1
        else:
            self._num_decode_steps += 1
            self._plan_decodes(step)

    def _may_interrupt(self) -> bool:
        """`max_waiting_tokens` decode steps have passed, or `waiting_served_ratio` x running sequences could join."""
        if self._num_decode_steps >= self._config.max_waiting_tokens:
            self._join_reason = "wait_exceeded"
            return True
        self._join_reason = "backpressure"
        limits, min_size = self._limits, int(len(self._running) * self._config.waiting_served_ratio)
        if limits.max_prefills:
            min_size = min(min_size, limits.max_prefills)
        num_tokens, need, count = 0, CacheNeed(), 0
        for count, sequence in enumerate(self._queue):
            num_tokens += sequence.num_tokens + sequence.num_encoder_tokens
            need += self._cache.need(sequence)
            fits = limits.chunked or num_tokens <= limits.max_step_tokens
            has_place = len(self._running) + count < limits.max_sequences
            if count == min_size or not (fits and has_place and self._cache.has_room(need, len(self._running))):
                break
        else:
            count = len(self._queue)
        return count >= min_size

    def _plan_decodes(self, step: StepBuilder) -> bool:
        """Add the decode rows. False = blocks ran out and the steps in flight must be collected first."""
        ready = [sequence for sequence in self._running.values() if self._can_decode(sequence)]
        del ready[step.token_budget :]
        for sequence in ready:
            if sequence.state is not SequenceState.RUNNING:
                break  # it and those behind it were preempted
            while not self._cache.grow(sequence, sequence.num_submitted_tokens + 1):
                if self._in_flight:
                    return False
                youngest = next(reversed(self._running.values()))
                self._preempt(youngest)
                if youngest is sequence:
                    break
        for sequence in ready:
            if sequence.state is SequenceState.RUNNING:
                step.add_row(sequence, 1)
        return True

    def _can_decode(self, sequence: Sequence) -> bool:
        if sequence.is_prefilling or len(sequence.token_ids) + sequence.num_pending_tokens >= sequence.max_tokens:
            return False
        return not sequence.num_pending_tokens or self._knows_device_token

    def _plan_prefills(self, step: StepBuilder, *, admit: bool) -> None:
        """Add prefill rows: those begun first, then, with `admit`, waiting sequences from the head of the queue."""
        for sequence in self._running.values():
            if sequence.is_prefilling and not self._add_prefill_row(step, sequence):
                return
        while admit and self._queue and len(self._running) < self._limits.max_sequences:
            if not self._admit(step, self._queue.head()):
                return

    def _plan_long_encoder(self, step: StepBuilder) -> bool:
        """Give the step to the head of the queue if its encoder, which runs whole, would never fit beside the decode rows."""
        if not self._queue or len(self._running) >= self._limits.max_sequences:
            return False
        head = self._queue.head()
        is_long = head.num_encoder_tokens > 0 and head.num_encoder_tokens + len(self._running) >= self._limits.max_step_tokens
        return is_long and self._admit(step, head)

    def _add_prefill_row(self, step: StepBuilder, sequence: Sequence) -> bool:
        count = self._num_prefill_tokens(step, sequence)
        if count == 0:
            return False
        step.add_row(sequence, count)
        step.num_prefill_rows += 1
        return True

    def _num_prefill_tokens(self, step: StepBuilder, sequence: Sequence) -> int:
        """Tokens of the next prefill row of a sequence; 0 = none in this step."""
        limits = self._limits
        if limits.max_prefills and step.num_prefill_rows >= limits.max_prefills:
            return 0
        remaining = sequence.num_prefill_tokens - sequence.num_submitted_tokens
        if remaining <= step.token_budget:
            return remaining
        return step.token_budget - step.token_budget % limits.chunk_multiple if limits.chunked else 0

    def _admit(self, step: StepBuilder, sequence: Sequence) -> bool:
        """Let the head of the queue run from this step on; False = it does not fit into the step or the cache."""
        if not step.has_budget(sequence) or not self._cache.admit(sequence, len(self._running)):
            return False
        sequence.num_submitted_tokens = sequence.num_computed_tokens
        sequence.num_prefill_tokens = sequence.num_tokens
        if not self._limits.chunked:
            # Only a resumed sequence is longer than a step. The rest of its output is replayed in decode rows.
            longest = sequence.num_computed_tokens + self._limits.max_step_tokens
            sequence.num_prefill_tokens = min(sequence.num_tokens, longest)
        step.charge_encoder(sequence)
        if self._num_prefill_tokens(step, sequence) == 0:
            self._cache.release(sequence, in_use=False)
            sequence.reset_progress()
            return False
        self._queue.remove(sequence)
        sequence.state = SequenceState.RUNNING
        sequence.handle = self._take_handle()
        self._running[sequence.sequence_id] = sequence
        if sequence.queue_ns < 0:
            sequence.queue_ns = self._clock() - sequence.arrival_ns
            sequence.num_cached_tokens = sequence.num_computed_tokens
            step.num_new_sequences += 1
        step.introduce(sequence, self._cache)
        return self._add_prefill_row(step, sequence)

    def _emit(self, step: StepBuilder, num_running: int) -> SchedulerOutput:
        self._next_step_id += 1
        num_rows = len(step.rows)
        method = "prefill" if step.num_prefill_rows else "decode"
        stats = SchedulerStats(
            method=method if num_rows else "",
            num_prefill_rows=step.num_prefill_rows,
            num_decode_rows=num_rows - step.num_prefill_rows,
            num_tokens=len(step.token_ids),
            num_new_sequences=step.num_new_sequences,
            num_preempted=self._num_preempted,
            has_joined=bool(step.num_new_sequences and num_running),
            join_reason=self._join_reason,
        )
        self._num_preempted = 0
        self._in_flight.append(StepInFlight(step.step_id, step.rows, stats))
        output = step.build(self._dropped, self._cache, self._limits.tokens_per_step)
        for handle in self._dropped:
            heapq.heappush(self._free_handles, handle)
        self._dropped = []
        return output

    # Applying results

    def _apply(self, row: Row, index: int, result: StepResult) -> SequenceOutput | None:
        sequence = row.sequence
        error = result.errors.get(row.handle) if result.errors else None
        if error is not None:
            output = self._output(sequence, error=error)
            self._finish(sequence)
            return output
        sequence.num_computed_tokens += row.count
        self._cache.register_computed(sequence)
        scores = next_prompt_logprobs(sequence, result.scores.get(row.handle)) if sequence.sampling.prompt_logprobs else []
        if not row.sample:
            return self._output(sequence, prompt_logprobs=scores) if scores else None
        token = result.token(index)
        if token is None:
            raise RuntimeError(f"the worker chose no token for a sampled row of sequence {row.handle}")
        sequence.token_ids.append(token.token_id)
        sequence.num_pending_tokens -= 1
        sequence.num_retries = 0
        reason = sequence.finish_reason
        output = self._output(sequence, [token], reason, prompt_logprobs=scores)
        if reason is not None:
            self._finish(sequence)
        return output

    def _output(
        self,
        sequence: Sequence,
        tokens: list[TokenOutput] | None = None,
        reason: FinishReason | None = None,
        error: str | None = None,
        prompt_logprobs: list[float | None] | None = None,
    ) -> SequenceOutput:
        num_cached = max(sequence.num_cached_tokens, 0)
        queue_ns = max(sequence.queue_ns, 0)
        return SequenceOutput(sequence.sequence_id, tokens or [], reason, error, num_cached, queue_ns, prompt_logprobs or [])

    def _collected(self, step: StepInFlight) -> None:
        self._cache.collected(self._in_flight[0].step_id if self._in_flight else None)
        self._last_stats = step.stats

    # Leaving

    def _preempt(self, sequence: Sequence) -> None:
        self._requeue(sequence)
        sequence.num_preemptions += 1
        self._num_preempted += 1

    def _requeue(self, sequence: Sequence) -> None:
        self._leave(sequence)
        sequence.state = SequenceState.WAITING
        self._queue.prepend(sequence)

    def _finish(self, sequence: Sequence) -> None:
        if sequence.state is SequenceState.RUNNING:
            self._leave(sequence)
        sequence.state = SequenceState.FINISHED
        del self._sequences[sequence.sequence_id]

    def _leave(self, sequence: Sequence) -> None:
        """Take a running sequence out of the worker. Its rows in flight lose their effect."""
        del self._running[sequence.sequence_id]
        self._dropped.append(sequence.handle)
        in_use = bool(self._in_flight) and self._in_flight[0].step_id <= sequence.last_step_id
        self._cache.release(sequence, in_use=in_use)
        sequence.handle = -1
        sequence.residence += 1
        sequence.reset_progress()

    def _take_handle(self) -> int:
        if self._free_handles:
            return heapq.heappop(self._free_handles)
        self._num_handles += 1
        return self._num_handles - 1
