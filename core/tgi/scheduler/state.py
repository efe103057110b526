"""Who waits, who runs, and what they hold: what planning and applying results share."""

from __future__ import annotations

from collections import deque
from typing import final

from tgi.backend import Agreement
from tgi.scheduler.handles import HandleManager
from tgi.scheduler.kv_cache_manager import KVCacheManager
from tgi.scheduler.queue import WaitingQueue
from tgi.scheduler.retries import RetryManager
from tgi.scheduler.sequence import Sequence, SequenceState
from tgi.scheduler.step import StepInFlight

__all__ = ["SchedulerState"]


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
