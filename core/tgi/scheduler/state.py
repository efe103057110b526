"""The state that is used both to plan steps and to apply results: the waiting and running
sequences, their handles in the worker, and the sequences of failed steps.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Container, Iterable, Iterator
from typing import final

from tgi.backend import Agreement, BackendError, Limits
from tgi.scheduler.kv_cache_manager import KVCacheManager
from tgi.scheduler.sequence import Sequence, SequenceState
from tgi.scheduler.step import StepInFlight

__all__ = [
    "HandleManager",
    "RetryManager",
    "SchedulerState",
    "WaitingQueue",
    "check_limits",
    "find_refusal",
]

_MAX_REPEATS = 2  # maximum number of retries of a step that cannot be made smaller


@final
class WaitingQueue:
    """The FIFO queue of waiting sequences. No sequence is admitted before the head, except if the
    head waits for its constraint. A preempted sequence returns to the head.
    """

    def __init__(self) -> None:
        self._sequences: OrderedDict[int, Sequence] = OrderedDict()

    def __len__(self) -> int:
        """Number of waiting sequences."""
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        """Iterate from the head to the tail."""
        return iter(self._sequences.values())

    def head(self, skipped: Container[int] = ()) -> Sequence | None:
        """Return the first sequence whose id is not in `skipped`, or None if there is none."""
        for sequence_id, sequence in self._sequences.items():
            if sequence_id not in skipped:
                return sequence
        return None

    def append(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self._sequences[sequence.sequence_id] = sequence

    def prepend(self, sequence: Sequence) -> None:
        """Queue a sequence before all others."""
        self._sequences[sequence.sequence_id] = sequence
        self._sequences.move_to_end(sequence.sequence_id, last=False)

    def remove(self, sequence: Sequence) -> None:
        """Remove a sequence."""
        del self._sequences[sequence.sequence_id]


@final
class HandleManager:
    """Assigns handles 0, 1, … to the sequences in the worker. The lowest free handle is assigned
    first. The handle of a dropped sequence is free again after a step has reported the drop to the
    worker.
    """

    def __init__(self) -> None:
        self._free: list[int] = []  # heap
        self._dropped: list[int] = []
        self._num_handles = 0

    @property
    def has_dropped(self) -> bool:
        """Whether a drop has not yet been reported to the worker."""
        return bool(self._dropped)

    def take(self) -> int:
        """Return a handle that is not in use in the worker."""
        if self._free:
            return heapq.heappop(self._free)
        self._num_handles += 1
        return self._num_handles - 1

    def drop(self, handle: int) -> None:
        """Mark a handle as dropped. The next step reports the drop to the worker."""
        self._dropped.append(handle)

    def take_dropped(self) -> list[int]:
        """Return the handles that the next step drops."""
        dropped, self._dropped = self._dropped, []
        for handle in dropped:
            heapq.heappush(self._free, handle)
        return dropped

    def check(self, held: Iterable[int]) -> None:
        """Raise AssertionError if a handle is lost or used twice."""
        named = sorted([*held, *self._dropped, *self._free])
        assert named == list(range(self._num_handles)), (
            f"handles are lost or used twice: {named} of {self._num_handles}"
        )


@final
class RetryManager:
    """Retries the sequences of failed steps in separate steps. After each failure the maximum size
    of these steps is halved.

    If a step was too large, the smaller steps succeed. If one sequence made the step fail, the
    steps are halved until a step contains only this sequence, and only this sequence ends with an
    error. A sequence is under retry from the failure of its step until its next token.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._failed_sequences: dict[int, Sequence] = {}  # by id
        # Maximum size of a retry step.
        self.max_rows = limits.max_sequences
        self.max_tokens = limits.max_step_tokens

    @property
    def has_failed_sequences(self) -> bool:
        """Whether a sequence is under retry."""
        return bool(self._failed_sequences)

    def shrink(self, num_rows: int, num_tokens: int) -> bool:
        """Reduce the size of retry steps after a step of the given size failed. Returns False if
        the failed step cannot be made smaller.
        """
        multiple = self._limits.chunk_multiple
        if num_rows > 1:
            self.max_rows = min(self.max_rows, num_rows // 2)
        elif self._limits.chunked and num_tokens > multiple:
            self.max_rows = 1
            self.max_tokens = min(self.max_tokens, max(num_tokens // 2 // multiple, 1) * multiple)
        else:
            return False
        return True

    def may_repeat(self, sequence: Sequence) -> bool:
        """Whether a sequence may run again after the failure of a step that cannot be made
        smaller.
        """
        return sequence.num_repeats < _MAX_REPEATS

    def note_failure(self, sequence: Sequence, *, is_repeat: bool) -> None:
        """Record that a step with this sequence failed. `is_repeat` means that the sequence will be
        retried in a step of the same size.
        """
        sequence.has_failed_step = True
        sequence.num_repeats += is_repeat
        self._failed_sequences[sequence.sequence_id] = sequence

    def clear(self, sequence: Sequence) -> None:
        """End the retry of a sequence that has a new token or has ended. If no other sequence is
        under retry, steps have their negotiated size again.
        """
        sequence.has_failed_step = False
        sequence.num_repeats = 0
        del self._failed_sequences[sequence.sequence_id]
        if not self._failed_sequences:
            self.max_rows, self.max_tokens = (
                self._limits.max_sequences,
                self._limits.max_step_tokens,
            )

    def check(self, sequences: Iterable[Sequence]) -> None:
        """Raise AssertionError unless exactly the sequences with `has_failed_step` are under
        retry.
        """
        marked = {sequence.sequence_id for sequence in sequences if sequence.has_failed_step}
        assert marked == self._failed_sequences.keys(), (
            f"sequences {marked} are marked as failed, not {set(self._failed_sequences)}"
        )


@final
class SchedulerState:
    """All sequences, from arrival to end. Every change of a sequence's state is made here."""

    def __init__(self, agreement: Agreement, hash_key: bytes | None) -> None:
        self.limits = agreement.limits
        self.cache = KVCacheManager(agreement, hash_key)
        self.queue = WaitingQueue()
        self.running: dict[int, Sequence] = {}  # by id, in order of admission
        self.sequences: dict[int, Sequence] = {}  # waiting and running, by id
        self.constrained: dict[int, Sequence] = {}  # those of `sequences` with a constraint, by id
        self.in_flight: deque[StepInFlight] = deque()
        self.handles = HandleManager()
        self.retries = RetryManager(agreement.limits)
        self.adapter_digests: dict[int, bytes] = {0: b""}  # by number; 0 is the base model
        self.num_preempted = 0  # number of preemptions since the last step

    @property
    def may_admit(self) -> bool:
        """Whether a sequence waits and the number of running sequences is below the limit."""
        return len(self.queue) > 0 and len(self.running) < self.limits.max_sequences

    def add(self, sequence: Sequence) -> None:
        """Add a new sequence to the end of the queue."""
        self.sequences[sequence.sequence_id] = sequence
        if sequence.constraint is not None:
            self.constrained[sequence.sequence_id] = sequence
        self.queue.append(sequence)

    def run(self, sequence: Sequence) -> None:
        """Move a waiting sequence, whose cache is allocated, to the running sequences."""
        self.queue.remove(sequence)
        sequence.state = SequenceState.RUNNING
        sequence.handle = self.handles.take()
        self.running[sequence.sequence_id] = sequence

    def preempt(self, sequence: Sequence) -> None:
        """Move a running sequence to the head of the queue, because the cache ran out of blocks."""
        self.requeue(sequence)
        sequence.num_preemptions += 1
        self.num_preempted += 1

    def requeue(self, sequence: Sequence) -> None:
        """Move a running sequence to the head of the queue."""
        self._leave(sequence)
        sequence.state = SequenceState.WAITING
        self.queue.prepend(sequence)

    def finish(self, sequence: Sequence) -> None:
        """End a waiting or running sequence."""
        if sequence.has_failed_step:
            self.retries.clear(sequence)
        if sequence.state is SequenceState.WAITING:
            self.queue.remove(sequence)
        else:
            self._leave(sequence)
        sequence.state = SequenceState.FINISHED
        del self.sequences[sequence.sequence_id]
        if sequence.constraint is not None:
            del self.constrained[sequence.sequence_id]
            sequence.constraint.close()

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken: a block, slot or handle is lost, a count
        is wrong, or a sequence has two states.
        """
        self.cache.check(self.running.values())
        waiting = {sequence.sequence_id for sequence in self.queue}
        assert not waiting & self.running.keys(), "a sequence waits and runs"
        assert waiting | self.running.keys() == self.sequences.keys(), (
            "a sequence neither waits nor runs"
        )
        self.handles.check(sequence.handle for sequence in self.running.values())
        self.retries.check(self.sequences.values())
        for sequence in self.sequences.values():
            sequence.check(self.cache.block_size)
        marked = {i for i, sequence in self.sequences.items() if sequence.constraint is not None}
        assert marked == self.constrained.keys(), "a constrained sequence is not listed as such"
        assert self.in_flight or all(not s.num_pending_tokens for s in self.running.values()), (
            "a pending token belongs to no step"
        )

    def _leave(self, sequence: Sequence) -> None:
        """Remove a running sequence from the worker. Its rows in flight have no effect any more."""
        del self.running[sequence.sequence_id]
        self.handles.drop(sequence.handle)
        in_use = bool(self.in_flight) and self.in_flight[0].step_id <= sequence.last_step_id
        self.cache.release(sequence, in_use=in_use)
        sequence.handle = -1
        sequence.epoch += 1
        sequence.reset_progress()


def check_limits(limits: Limits) -> None:
    """Raise `BackendError` if no step could ever run under these limits."""
    if (
        min(limits.max_sequences, limits.max_step_tokens, limits.depth, limits.chunk_multiple) < 1
        or limits.max_total_tokens < 2
    ):
        raise BackendError(f"The backend negotiated limits that allow no step: {limits}.")
    if limits.chunked and limits.max_step_tokens < limits.chunk_multiple:
        raise BackendError(
            f"The backend negotiated steps of {limits.max_step_tokens} tokens, but prefill chunks"
            f" of {limits.chunk_multiple} tokens do not fit into a step."
        )


def find_refusal(sequence: Sequence, agreement: Agreement, cache: KVCacheManager) -> str | None:
    """Return a message for the client if a sequence can never run. Return None if it can run.

    The front end checks requests first. The checks here protect the worker from a request that the
    front end did not check.
    """
    limits, num_prompt = agreement.limits, sequence.num_prompt_tokens
    if num_prompt == 0:
        return "The prompt has no tokens, but at least 1 is required"
    if num_prompt >= sequence.max_tokens:
        limit = f"at most {limits.max_total_tokens} tokens (`max_total_tokens`)"
        return (
            f"The prompt has {num_prompt} tokens, but a sequence has {limit}, and at least 1 of"
            " them is generated"
        )
    if not limits.chunked and num_prompt > limits.max_step_tokens:
        return (
            f"The prompt has {num_prompt} tokens, but this backend runs a prompt in one step of at"
            f" most {limits.max_step_tokens} tokens"
        )
    other = _find_unknown_id(sequence, agreement.vocab_size) or _find_encoder_refusal(
        sequence, limits, cache
    )
    if other is not None:
        return other
    capacity = cache.max_sequence_tokens
    held = sequence.max_tokens - 1  # the keys and values of the last token are never computed
    if capacity is not None and held > capacity:
        return (
            f"The sequence may need a cache of {held} tokens, but the cache has space for"
            f" {capacity}. Request fewer new tokens"
        )
    return None


def _find_encoder_refusal(sequence: Sequence, limits: Limits, cache: KVCacheManager) -> str | None:
    count, capacity = sequence.num_encoder_tokens, cache.max_encoder_tokens
    if count == 0:
        return (
            "The sequence has no encoder tokens, but this model needs at least 1"
            if cache.has_cross_blocks
            else None
        )
    if capacity == 0:
        return (
            f"The sequence has {count} encoder tokens, but this model has no encoder. Send only a"
            " prompt"
        )
    limit = limits.max_total_tokens if capacity is None else min(capacity, limits.max_total_tokens)
    return (
        f"The sequence has {count} encoder tokens, but the maximum is {limit}"
        if count > limit
        else None
    )


def _find_unknown_id(sequence: Sequence, vocab_size: int) -> str | None:
    """Return an error message if a token id has no row in the embedding, else None."""
    for token_ids in (sequence.token_ids, sequence.request.encoder_token_ids):
        if token_ids and not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
            outside = next(token for token in token_ids if not 0 <= token < vocab_size)
            return (
                f"The sequence contains token id {outside}, but the model has {vocab_size}"
                " token ids"
            )
    return None
