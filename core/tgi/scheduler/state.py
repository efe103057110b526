"""The sequences that wait and run, their names in the worker, and those of failed steps: the state
that planning and applying results share.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
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

_MAX_REPEATS = 2  # of a step that cannot be made smaller


@final
class WaitingQueue:
    """FIFO with head-of-line order: nobody overtakes the head. A preempted sequence returns to the
    front.
    """

    def __init__(self) -> None:
        self._sequences: OrderedDict[int, Sequence] = OrderedDict()

    def __len__(self) -> int:
        """Waiting sequences."""
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        """From the head to the tail."""
        return iter(self._sequences.values())

    def head(self) -> Sequence:
        """The next one to be admitted."""
        return next(iter(self._sequences.values()))

    def append(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self._sequences[sequence.sequence_id] = sequence

    def prepend(self, sequence: Sequence) -> None:
        """Queue a sequence before all others."""
        self._sequences[sequence.sequence_id] = sequence
        self._sequences.move_to_end(sequence.sequence_id, last=False)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out."""
        del self._sequences[sequence.sequence_id]


@final
class HandleManager:
    """Handles 0, 1, …: the lowest free one first. One that was returned is free once the worker was
    told of the drop.
    """

    def __init__(self) -> None:
        self._free: list[int] = []  # heap
        self._dropped: list[int] = []
        self._num_handles = 0

    @property
    def has_dropped(self) -> bool:
        """Whether the worker has yet to hear of a drop."""
        return bool(self._dropped)

    def take(self) -> int:
        """A handle that the worker does not know."""
        if self._free:
            return heapq.heappop(self._free)
        self._num_handles += 1
        return self._num_handles - 1

    def drop(self, handle: int) -> None:
        """Its sequence left; the next step says so."""
        self._dropped.append(handle)

    def take_dropped(self) -> list[int]:
        """What the next step drops."""
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
    """Sequences of failed steps are tried again apart from the others, in steps of half the size.

    So a step that was too large succeeds in parts, and of a step with one bad sequence all others
    go on: it fails alone at last, and ends. A sequence is under suspicion from the failure until
    its next token.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._failed_sequences: dict[int, Sequence] = {}  # by id
        self.max_rows = limits.max_sequences  # of the steps in which they are tried again
        self.max_tokens = limits.max_step_tokens

    @property
    def has_failed_sequences(self) -> bool:
        """Whether sequences wait for a trial, or for its result."""
        return bool(self._failed_sequences)

    def shrink(self, num_rows: int, num_tokens: int) -> bool:
        """A step of that size failed: make the next trial smaller. False = it cannot be."""
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
        """Whether a sequence may be tried again that failed in a step as small as can be."""
        return sequence.num_repeats < _MAX_REPEATS

    def note_failure(self, sequence: Sequence, *, is_repeat: bool) -> None:
        """A step with this sequence failed; `is_repeat` says that it will run in a step of the same
        size.
        """
        sequence.has_failed_step = True
        sequence.num_repeats += is_repeat
        self._failed_sequences[sequence.sequence_id] = sequence

    def clear(self, sequence: Sequence) -> None:
        """It has a token, or it ended. After the last one, steps are as large as agreed again."""
        sequence.has_failed_step = False
        sequence.num_repeats = 0
        del self._failed_sequences[sequence.sequence_id]
        if not self._failed_sequences:
            self.max_rows, self.max_tokens = (
                self._limits.max_sequences,
                self._limits.max_step_tokens,
            )

    def check(self, sequences: Iterable[Sequence]) -> None:
        """Raise AssertionError if a suspect is unknown or unmarked."""
        marked = {sequence.sequence_id for sequence in sequences if sequence.has_failed_step}
        assert marked == self._failed_sequences.keys(), (
            f"sequences {marked} are suspects, not {set(self._failed_sequences)}"
        )


@final
class SchedulerState:
    """The sequences, from arrival to end. Every change of a sequence's state is made here."""

    def __init__(self, agreement: Agreement, hash_key: bytes | None) -> None:
        self.limits = agreement.limits
        self.cache = KVCacheManager(agreement, hash_key)
        self.queue = WaitingQueue()
        self.running: dict[int, Sequence] = {}  # by id, in order of admission
        self.sequences: dict[int, Sequence] = {}  # waiting and running
        self.in_flight: deque[StepInFlight] = deque()
        self.handles = HandleManager()
        self.retries = RetryManager(agreement.limits)
        self.adapter_digests: dict[int, bytes] = {0: b""}  # by number; 0 is the model alone
        self.num_preempted = 0  # since the last step

    @property
    def may_admit(self) -> bool:
        """Whether a sequence waits and another one may run."""
        return len(self.queue) > 0 and len(self.running) < self.limits.max_sequences

    def add(self, sequence: Sequence) -> None:
        """A new sequence waits."""
        self.sequences[sequence.sequence_id] = sequence
        self.queue.append(sequence)

    def run(self, sequence: Sequence) -> None:
        """A waiting sequence, which holds its part of the cache, runs from now on."""
        self.queue.remove(sequence)
        sequence.state = SequenceState.RUNNING
        sequence.handle = self.handles.take()
        self.running[sequence.sequence_id] = sequence

    def preempt(self, sequence: Sequence) -> None:
        """A running sequence makes room for older ones."""
        self.requeue(sequence)
        sequence.num_preemptions += 1
        self.num_preempted += 1

    def requeue(self, sequence: Sequence) -> None:
        """A running sequence waits again, before all others."""
        self._leave(sequence)
        sequence.state = SequenceState.WAITING
        self.queue.prepend(sequence)

    def finish(self, sequence: Sequence) -> None:
        """A sequence ends, wherever it is."""
        if sequence.has_failed_step:
            self.retries.clear(sequence)
        if sequence.state is SequenceState.WAITING:
            self.queue.remove(sequence)
        else:
            self._leave(sequence)
        sequence.state = SequenceState.FINISHED
        del self.sequences[sequence.sequence_id]

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken: lost blocks or slots, wrong counts, a
        sequence in two places.
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
        assert self.in_flight or all(not s.num_pending_tokens for s in self.running.values()), (
            "a token is pending in no step"
        )

    def _leave(self, sequence: Sequence) -> None:
        """Take a running sequence out of the worker. Its rows in flight lose their effect."""
        del self.running[sequence.sequence_id]
        self.handles.drop(sequence.handle)
        in_use = bool(self.in_flight) and self.in_flight[0].step_id <= sequence.last_step_id
        self.cache.release(sequence, in_use=in_use)
        sequence.handle = -1
        sequence.epoch += 1
        sequence.reset_progress()


def check_limits(limits: Limits) -> None:
    """Raise `BackendError` if under these limits nothing could ever run."""
    if (
        min(limits.max_sequences, limits.max_step_tokens, limits.depth, limits.chunk_multiple) < 1
        or limits.max_total_tokens < 2
    ):
        raise BackendError(f"The backend agreed on limits that let nothing run: {limits}.")
    if limits.chunked and limits.max_step_tokens < limits.chunk_multiple:
        raise BackendError(
            f"The backend agreed on steps of {limits.max_step_tokens} tokens, but on prefill chunks"
            f" of {limits.chunk_multiple}."
        )


def find_refusal(sequence: Sequence, agreement: Agreement, cache: KVCacheManager) -> str | None:
    """Return why a sequence can never run, as a message for the client. None if it can run.

    The front end checks requests first. These checks protect the worker from a request that the
    front end did not check.
    """
    limits, num_prompt = agreement.limits, sequence.num_prompt_tokens
    if num_prompt == 0:
        return "The prompt has no tokens; it needs at least 1"
    if num_prompt >= sequence.max_tokens:
        limit = f"at most {limits.max_total_tokens} tokens in all (`max_total_tokens`)"
        return (
            f"The prompt has {num_prompt} tokens and leaves no room for a new one: {limit}, at"
            " least 1 of them new"
        )
    if not limits.chunked and num_prompt > limits.max_step_tokens:
        return (
            f"The prompt has {num_prompt} tokens; this backend runs a prompt in one step of at most"
            f" {limits.max_step_tokens}"
        )
    other = _find_unknown_id(sequence, agreement.vocab_size) or _find_encoder_refusal(
        sequence, limits, cache
    )
    if other is not None:
        return other
    capacity = cache.max_sequence_tokens
    held = sequence.max_tokens - 1  # the last token is chosen, but never run
    if capacity is not None and held > capacity:
        return (
            f"The sequence may need a cache of {held} tokens; there is room for {capacity}: ask for"
            " fewer new tokens"
        )
    return None


def _find_encoder_refusal(sequence: Sequence, limits: Limits, cache: KVCacheManager) -> str | None:
    count, capacity = sequence.num_encoder_tokens, cache.max_encoder_tokens
    if count == 0:
        return (
            "The sequence has no encoder tokens; this model needs at least 1"
            if cache.has_cross_blocks
            else None
        )
    if capacity == 0:
        return (
            f"The sequence has {count} encoder tokens, but this model has no encoder: send a prompt"
            " alone"
        )
    limit = limits.max_total_tokens if capacity is None else min(capacity, limits.max_total_tokens)
    return (
        f"The sequence has {count} encoder tokens; there is room for {limit}"
        if count > limit
        else None
    )


def _find_unknown_id(sequence: Sequence, vocab_size: int) -> str | None:
    """Why the worker cannot look up the ids of a sequence: an id without a row in the embedding."""
    for token_ids in (sequence.token_ids, sequence.request.encoder_token_ids):
        if token_ids and not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
            outside = next(token for token in token_ids if not 0 <= token < vocab_size)
            return f"The sequence contains token id {outside}, the model has {vocab_size} token ids"
    return None
