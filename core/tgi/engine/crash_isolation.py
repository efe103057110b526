"""Which of the unfinished sequences kills the engine: those that were there at two deaths run one
at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import final

from tgi.engine.stream import SequenceStream

__all__ = ["CrashIsolation"]

_NUM_CRASHES = 2  # of the engine, after which a sequence that was there each time is tried alone
_ISOLATION_TOKENS = 8  # more than the steps in flight when the engine died, whose tokens never came


@final
class CrashIsolation:
    """One death has many causes, so at first everything goes on as it was. At the second one each
    sequence that was there both times runs alone for a few tokens: if the engine dies again, that
    sequence is at fault; if not, it is cleared.
    """

    def __init__(self) -> None:
        self._num_crashes: dict[int, int] = {}  # by sequence id
        self._waiting: deque[SequenceStream] = deque()
        self.current: SequenceStream | None = None  # the sequence that runs alone
        self._goal = 0  # output tokens that clear the current one

    def note_crash(self, streams: Iterable[SequenceStream]) -> SequenceStream | None:
        """The engine died while these were unfinished. Returns the one that ran alone, which is at
        fault.
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

    def begin(self, streams: Iterable[SequenceStream]) -> SequenceStream | None:
        """The engine serves again: the first sequence to run alone; None = all run."""
        self._waiting.extend(
            s for s in streams if self._num_crashes.get(s.sequence_id, 0) >= _NUM_CRASHES
        )
        return self._next()

    def is_passed(self) -> bool:
        """Whether the current sequence ended, or has run far enough to be cleared."""
        stream = self.current
        return stream is not None and (
            stream.is_finished or len(stream.output_token_ids) >= self._goal
        )

    def advance(self) -> SequenceStream | None:
        """The current sequence is cleared; the next one, or None when all have been."""
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
