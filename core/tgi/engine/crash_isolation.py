"""Finds the sequence that crashes the engine. Sequences that were unfinished at two crashes are run
one at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import final

from tgi.engine.stream import SequenceStream

__all__ = ["CrashIsolation"]

# A sequence that was unfinished at this many engine crashes is run alone.
_NUM_CRASHES = 2
# A sequence that has generated this many tokens while it ran alone is not the cause of the crashes.
# It "passes" the isolation run. A crash loses the tokens of the steps in flight, so this value is
# larger than the number of steps in flight.
_ISOLATION_TOKENS = 8


@final
class CrashIsolation:
    """Counts, for each unfinished sequence, the engine crashes at which it was unfinished.

    The first crash can have many causes, so all sequences are resumed together after it. After the
    second crash, each sequence that was unfinished at both crashes runs alone for a few tokens. If
    the engine crashes again, the sequence that ran alone is the cause. Otherwise the sequence has
    passed. After the last isolation run all sequences run together again.
    """

    def __init__(self) -> None:
        self._num_crashes: dict[int, int] = {}  # by sequence id
        self._waiting: deque[SequenceStream] = deque()
        self.current: SequenceStream | None = None  # the sequence that runs alone
        self._goal = 0  # number of output tokens at which the current sequence passes

    def note_crash(self, streams: Iterable[SequenceStream]) -> SequenceStream | None:
        """Record an engine crash at which the sequences of `streams` were unfinished. Returns the
        sequence that ran alone, which caused the crash, or None if no sequence ran alone.
        """
        offender, self.current = self.current, None
        self._waiting.clear()
        unfinished = {stream.sequence_id for stream in streams}
        crashes = self._num_crashes
        if offender is None:
            self._num_crashes = {
                sequence_id: crashes.get(sequence_id, 0) + 1 for sequence_id in unfinished
            }
        else:
            self._num_crashes = {
                i: count
                for i, count in crashes.items()
                if i in unfinished and i != offender.sequence_id
            }
        return offender

    def interrupt(self) -> None:
        """End the isolation runs without a result, because no sequence is the cause of the crash.
        `begin` repeats the runs of the sequences that have not passed.
        """
        self.current = None
        self._waiting.clear()

    def begin(self, streams: Iterable[SequenceStream]) -> SequenceStream | None:
        """Start the isolation runs after an engine restart. Returns the first sequence to run
        alone, or None if all sequences may run.
        """
        self._waiting.extend(
            s for s in streams if self._num_crashes.get(s.sequence_id, 0) >= _NUM_CRASHES
        )
        return self._next()

    def is_passed(self) -> bool:
        """Whether the current sequence has ended, or has run enough tokens to pass."""
        stream = self.current
        return stream is not None and (
            stream.is_finished or len(stream.output_token_ids) >= self._goal
        )

    def advance(self) -> SequenceStream | None:
        """End the run of the current sequence, which has passed. Returns the next sequence to run
        alone, or None if no sequence is left to isolate.
        """
        if self.current is not None:
            self._num_crashes.pop(self.current.sequence_id, None)
        return self._next()

    def _next(self) -> SequenceStream | None:
        self.current = None
        while self._waiting and self.current is None:
            stream = self._waiting.popleft()
            self.current = None if stream.is_finished else stream
        if self.current is not None:
            self._goal = len(self.current.output_token_ids) + _ISOLATION_TOKENS
        return self.current
