"""Implements continuous batching: selects the sequences of each step, their numbers of tokens and
their cache blocks. The decisions depend only on the limits negotiated with the backend.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import final

import msgspec

from tgi.backend import Agreement, GrammarMasks, ModelRunnerOutput, SchedulerOutput
from tgi.scheduler.block_manager import HASH_KEY_BYTES, BlockContext
from tgi.scheduler.constraint import TokenConstraint
from tgi.scheduler.masks import MaskBuilder
from tgi.scheduler.planner import StepPlanner
from tgi.scheduler.prompt_scores import NO_SCORES, NewPromptScores, next_prompt_scores
from tgi.scheduler.records import (
    Request,
    SchedulerConfig,
    SchedulerStats,
    SequenceOutput,
)
from tgi.scheduler.sequence import Sequence
from tgi.scheduler.state import SchedulerState, check_limits, find_refusal
from tgi.scheduler.step import (
    RowLayout,
    StepBuilder,
    StepInFlight,
    StepResult,
)
from tgi.types import FinishReason

__all__ = ["Scheduler"]

_NO_STATS = SchedulerStats()


@final
class Scheduler:
    """Implements continuous batching. Waiting sequences are admitted in order of arrival, and a
    sequence leaves the batch in the step in which it ends.

    `StepPlanner` chooses the rows of a step and `SchedulerState` contains the sequences. This class
    builds steps and applies their results. `clock` is the only source of time (in ns), and
    `hash_key` is the only source of randomness.
    """

    def __init__(
        self,
        agreement: Agreement,
        config: SchedulerConfig,
        clock: Callable[[], int] = time.monotonic_ns,
        hash_key: bytes | None = None,
    ) -> None:
        check_limits(agreement.limits)
        key = (hash_key or secrets.token_bytes(HASH_KEY_BYTES)) if config.prefix_cache else None
        self._limits = agreement.limits
        self._agreement = agreement
        self._clock = clock
        self._state = SchedulerState(agreement, key)
        # The unfinished sequences with a constraint, by id. The engine reads this in every step. An
        # attribute takes less time than a property.
        self.constrained: Mapping[int, Sequence] = self._state.constrained
        self._planner = StepPlanner(self._state, config, clock, agreement)
        self._masks = MaskBuilder(agreement)
        self._next_step_id = 0
        self._last_stats = _NO_STATS
        self._layout: RowLayout | None = None  # layout of the latest step

    @property
    def has_work(self) -> bool:
        """Whether a sequence waits or runs, or the worker must still drop a sequence."""
        return bool(self._state.sequences) or self._state.handles.has_dropped

    @property
    def vocab_size(self) -> int:
        """Number of token ids of the model."""
        return self._agreement.vocab_size

    @property
    def num_sequences(self) -> int:
        """Number of unfinished sequences."""
        return len(self._state.sequences)

    @property
    def has_dropped(self) -> bool:
        """Whether a dropped sequence has not yet been reported to the worker."""
        return self._state.handles.has_dropped

    @property
    def num_in_flight(self) -> int:
        """Number of scheduled steps whose result or failure has not been applied yet."""
        return len(self._state.in_flight)

    def add(
        self,
        sequence_id: int,
        request: Request,
        output_token_ids: Iterable[int] = (),
        constraint: TokenConstraint | None = None,
    ) -> SequenceOutput | None:
        """Queue a sequence. Generation continues after `output_token_ids`, the tokens that an
        earlier engine process generated. A sequence that can never run, or that is already
        complete, ends immediately, and its output is returned.

        `constraint` applies the guidance of the request. It continues after `output_token_ids`. If
        the sequence ends immediately, the caller closes the constraint.
        """
        digest = self._state.adapter_digests.get(request.adapter)
        if digest is None:
            return SequenceOutput(sequence_id, error=f"Adapter {request.adapter} is not loaded")
        sequence = Sequence.of(
            sequence_id,
            request,
            output_token_ids,
            block_context=BlockContext(
                self._state.cache.block_size, digest, request.cache_salt.encode()
            ),
            max_total_tokens=self._limits.max_total_tokens,
            arrival_ns=self._clock(),
            constraint=constraint,
        )
        error = find_refusal(sequence, self._agreement, self._state.cache)
        if constraint is not None and not self._masks.is_supported:
            error = "The backend cannot apply grammars. Send the request without a grammar"
        if sequence_id in self._state.sequences:
            error = f"Sequence {sequence_id} was already submitted and is unfinished"
        if error is not None:
            return SequenceOutput(sequence_id, error=error)
        if sequence.num_output_tokens:
            # An output token exists, so the whole prompt was scored by an earlier engine process.
            sequence.num_sent_prompt_logprobs = sequence.num_prompt_tokens
            reason = sequence.finish_reason
            if reason is not None:
                return SequenceOutput(sequence_id, finish_reason=reason)
        self._state.add(sequence)
        return None

    def abort(self, sequence_id: int) -> None:
        """Drop a sequence without an output. Does nothing if the sequence has already ended."""
        sequence = self._state.sequences.get(sequence_id)
        if sequence is not None:
            self._state.finish(sequence)

    def end_constrained(self) -> list[SequenceOutput]:
        """End the sequences whose constraint has an error or is complete before a token was
        sampled.
        """
        outputs = []
        for sequence in list(self._state.constrained.values()):
            constraint = sequence.constraint
            if constraint is None or not (constraint.error or constraint.is_complete):
                continue
            reason = None if constraint.error else FinishReason.EOS_TOKEN
            outputs.append(_output(sequence, reason=reason, error=constraint.error or None))
            self._state.finish(sequence)
        return outputs

    def take_late_masks(self) -> list[GrammarMasks]:
        """Return the masks of steps in flight whose preceding tokens are known now. Each of these
        steps waits for its masks, so the caller submits them before it collects the step.
        """
        return self._masks.take_late()

    def schedule(self) -> SchedulerOutput | None:
        """Decide the next step. Returns None if no step can be scheduled now. A later call may
        return a step, for example after a step in flight is collected.
        """
        self._last_stats = _NO_STATS
        if len(self._state.in_flight) >= self._limits.depth:
            return None
        num_running = len(self._state.running)
        step = self._planner.plan(self._next_step_id)
        is_flush = self._state.handles.has_dropped and not self._state.in_flight
        if not step.sequences and not is_flush:
            return None
        return self._emit(step, num_running)

    def update(self, output: ModelRunnerOutput) -> list[SequenceOutput]:
        """Apply the result of the oldest step in flight. Raises RuntimeError if `output` belongs to
        another step or does not have the requested rows and tokens.
        """
        if not self._state.in_flight or self._state.in_flight[0].step_id != output.step_id:
            raise RuntimeError(
                f"the worker returned step {output.step_id}, which is not the oldest one in flight"
            )
        step = self._state.in_flight.popleft()
        result = StepResult(output, step.handles)
        outputs = self._end_failed_rows(step, result) if result.errors else []
        valid, sequences = step.valid_rows(), step.sequences
        for row in valid:
            sequences[row].num_computed_tokens += step.counts[row]
        self._state.cache.register_computed(sequences[row] for row in valid)
        if step.copies:
            self._state.cache.complete(step.copies, is_valid=True)
        for row in valid:
            sequence = sequences[row]
            scores = NO_SCORES
            if sequence.request.sampling.prompt_logprobs:
                scores = next_prompt_scores(sequence, result.scores.get(step.handles[row]))
            if step.samples[row]:
                outputs.append(
                    self._append(sequence, result, row, step.budgets.get(row, 1), scores)
                )
            elif scores[0]:
                outputs.append(_output(sequence, scores=scores))
        if step.stats.num_prefill_rows:
            self._planner.pace.note(step.stats.num_tokens, output.times)
        else:
            self._planner.pace.decode_step = step.stats.num_tokens, output.times
        self._collected(step)
        return outputs

    def fail_step(self, step_id: int, message: str, retryable: bool) -> list[SequenceOutput]:
        """Apply the failure of a step in flight. The worker has processed the dropped and new
        sequences of the step, but none of its rows.

        If `retryable` is set, the step's sequences return to the head of the queue and run in
        smaller steps, apart from the other sequences. If the step cannot be made smaller, it is
        repeated a few times. If it still fails, or if it is not retryable, its sequences end with
        the error `message`.
        """
        step = next(step for step in self._state.in_flight if step.step_id == step_id)
        self._state.in_flight.remove(step)
        self._masks.drop(step_id)
        outputs = []
        if step.copies:
            self._state.cache.complete(step.copies, is_valid=False)
        is_smaller = retryable and self._state.retries.shrink(len(step.sequences), sum(step.counts))
        # The youngest sequence is requeued first, so that the oldest ends up at the head.
        order = {sequence_id: place for place, sequence_id in enumerate(self._state.running)}
        failed = [step.sequences[row] for row in step.valid_rows()]
        for sequence in sorted(
            failed, key=lambda sequence: order[sequence.sequence_id], reverse=True
        ):
            if is_smaller or (retryable and self._state.retries.may_repeat(sequence)):
                self._state.retries.note_failure(sequence, is_repeat=not is_smaller)
                self._state.requeue(sequence)
            else:
                outputs.append(_output(sequence, error=message))
                self._state.finish(sequence)
        self._collected(step)
        return outputs

    def load_adapter(self, number: int, digest: bytes) -> None:
        """Accept sequences with an adapter. `digest` is the digest of the adapter's content. It
        identifies the adapter in the prefix cache, because `number` may be used again for another
        adapter.
        """
        self._state.adapter_digests[number] = digest

    def unload_adapter(self, number: int) -> None:
        """Reject new sequences with an adapter. No unfinished sequence may use the adapter."""
        del self._state.adapter_digests[number]

    def num_users(self, adapter: int) -> int:
        """Number of unfinished sequences with an adapter."""
        return sum(s.request.adapter == adapter for s in self._state.sequences.values())

    def are_free(self, blocks: Iterable[int]) -> bool:
        """Whether all `blocks` are without references and outside the prefix cache."""
        return all(map(self._state.cache.blocks.is_free, blocks))

    def forget_cached_blocks(self) -> None:
        """Empty the prefix cache, because the worker lost all keys and values. No sequence may be
        unfinished.
        """
        self._state.cache.forget_cached()

    def stats(self) -> SchedulerStats:
        """Return the current gauges, and the counters of the step whose result or failure was
        applied last. The counters are 0 if `schedule` was called after that.
        """
        return msgspec.structs.replace(
            self._last_stats,
            num_waiting=len(self._state.queue),
            num_running=len(self._state.running),
            num_used_tokens=self._state.cache.num_used_tokens,
            num_free_blocks=self._state.cache.num_free,
            num_cached_blocks=self._state.cache.cached.num_cached,
        )

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken: a block, slot or handle is lost, a count
        is wrong, or a sequence has two states.
        """
        self._state.check()

    def _emit(self, step: StepBuilder, num_running: int) -> SchedulerOutput:
        self._next_step_id += 1
        num_rows = len(step.sequences)
        method = "prefill" if step.num_prefill_rows else "decode"
        stats = SchedulerStats(
            method=method if num_rows else "",
            num_prefill_rows=step.num_prefill_rows,
            num_decode_rows=num_rows - step.num_prefill_rows,
            num_tokens=len(step.token_ids),
            num_new_sequences=step.num_new_sequences,
            num_preempted=self._state.num_preempted,
            has_joined=bool(step.num_new_sequences and num_running),
            join_reason=self._planner.join_reason,
        )
        self._state.num_preempted = 0
        layout, cache = self._layout, self._state.cache
        if layout is None or not layout.fits(step):
            layout = self._layout = RowLayout(step, cache)
        self._state.in_flight.append(step.in_flight(stats, layout))
        built = step.build(
            self._state.handles.take_dropped(), cache, self._limits.tokens_per_step, layout
        )
        return self._masks.add(built, step, layout) if layout.constrained else built

    # Applying results

    def _append(
        self,
        sequence: Sequence,
        result: StepResult,
        row: int,
        max_tokens: int,
        scores: NewPromptScores,
    ) -> SequenceOutput:
        """Append the tokens that were sampled for a row to the row's sequence. Tokens after the one
        that ends the sequence are ignored.
        """
        token_ids, logprobs, top = result.token_ids[row], result.logprobs[row], result.top[row]
        if not 1 <= len(token_ids) <= max_tokens:
            raise RuntimeError(
                f"the worker returned {len(token_ids)} tokens for a row of sequence"
                f" {sequence.handle}, but 1 to {max_tokens} tokens were requested"
            )
        prompt_logprobs, prompt_top = scores
        sequence.num_pending_tokens -= 1
        reason = None
        for number, token_id in enumerate(token_ids, 1):
            sequence.token_ids.append(token_id)
            reason = sequence.finish_reason
            if reason is not None:
                token_ids, logprobs, top = token_ids[:number], logprobs[:number], top[:number]
                break
        if sequence.constraint is not None and reason is None:
            sequence.constraint.accept(token_ids[-1])
            if sequence.constraint.error:
                self._state.finish(sequence)
                return _output(sequence, error=sequence.constraint.error, scores=scores)
            if sequence.constraint.is_complete:
                reason = FinishReason.EOS_TOKEN
        if max_tokens > 1:
            sequence.close_row(len(token_ids))
            self._state.cache.register_computed((sequence,))
        if sequence.has_failed_step:
            self._state.retries.clear(sequence)
        output = SequenceOutput(
            sequence.sequence_id,
            token_ids,
            reason,
            None,
            sequence.num_cached_tokens,
            sequence.queue_ns,
            prompt_logprobs,
            logprobs,
            top,
            prompt_top,
        )
        if reason is not None:
            self._state.finish(sequence)
        return output

    def _end_failed_rows(self, step: StepInFlight, result: StepResult) -> list[SequenceOutput]:
        failed = [row for row in step.valid_rows() if step.handles[row] in result.errors]
        outputs = [
            _output(step.sequences[row], error=result.errors[step.handles[row]]) for row in failed
        ]
        for row in failed:
            self._state.finish(step.sequences[row])
        return outputs

    def _collected(self, step: StepInFlight) -> None:
        self._state.cache.collected(
            self._state.in_flight[0].step_id if self._state.in_flight else None
        )
        self._last_stats = step.stats


def _output(
    sequence: Sequence,
    *,
    reason: FinishReason | None = None,
    error: str | None = None,
    scores: NewPromptScores = NO_SCORES,
) -> SequenceOutput:
    """Return an output without tokens."""
    cached, queued = sequence.num_cached_tokens, sequence.queue_ns
    logprobs, top = scores
    return SequenceOutput(
        sequence.sequence_id, [], reason, error, cached, queued, logprobs, prompt_top=top
    )
