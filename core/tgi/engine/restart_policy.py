"""Decides when a crashed engine is restarted.

An engine makes progress if it returns tokens, or if it is ready for a whole window. Only crashes
without progress count. While there are few such crashes, the engine is restarted immediately. After
more such crashes the server rejects requests, and each restart is delayed. Each further crash
without progress doubles the delay, up to a maximum (exponential backoff).
"""

from __future__ import annotations

from collections import deque
from typing import final

__all__ = ["RestartPolicy"]

_MAX_CRASHES = 3  # maximum number of crashes without progress within the window
_WINDOW_SECONDS = 300.0
_FIRST_PAUSE_SECONDS = 10.0
_MAX_PAUSE_SECONDS = 300.0


@final
class RestartPolicy:
    """Counts the crashes of one engine. The times are those of the caller's clock in seconds.

    The window of the count is measured in serving time. The duration of startups does not matter.
    """

    def __init__(self) -> None:
        self._crashes: deque[float] = deque()  # the serving times of crashes without progress
        self._served = 0.0
        self._ready_at = 0.0
        self._num_pauses = 0  # number of pauses since the last progress

    @property
    def is_tripped(self) -> bool:
        """Whether there were too many crashes without progress, and no progress since then."""
        return self._num_pauses > 0

    @property
    def num_crashes(self) -> int:
        """Number of crashes without progress."""
        return len(self._crashes)

    @property
    def window_seconds(self) -> float:
        """The serving time within which crashes are counted."""
        return _WINDOW_SECONDS

    def note_ready(self, now: float) -> None:
        """Record that the engine is ready."""
        self._ready_at = now

    def note_crash(self, now: float, has_progressed: bool) -> float:
        """Record that an engine which was ready has ended. Returns the pause before the next
        startup.

        An engine has progressed if it returned tokens, or if it was ready for a whole window.
        """
        served = now - self._ready_at
        self._served += served
        if has_progressed or served > _WINDOW_SECONDS:
            self._crashes.clear()
            self._num_pauses = 0
            return 0.0
        return self._count(0.0)

    def note_failed_start(self) -> float:
        """Record that a restart has failed. Returns the pause before the next attempt."""
        return self._count(2.0 ** len(self._crashes) / 2)

    def _count(self, short_pause: float) -> float:
        self._crashes.append(self._served)
        while self._served - self._crashes[0] > _WINDOW_SECONDS:
            self._crashes.popleft()
        if len(self._crashes) <= _MAX_CRASHES and not self._num_pauses:
            return short_pause
        self._num_pauses += 1
        return min(_FIRST_PAUSE_SECONDS * 2.0 ** (self._num_pauses - 1), _MAX_PAUSE_SECONDS)
