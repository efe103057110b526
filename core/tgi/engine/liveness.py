"""The rules by which the front end recognizes an engine process that hangs.

The signs of life of an engine process are its messages and its processor time. The front end reads
the processor time from the operating system, so a library that holds the interpreter lock for
minutes does not delay this sign. An idle engine replies to the front end's health checks.
"""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass
from typing import final

__all__ = ["DEFAULT_LIMITS", "Liveness", "LivenessLimits"]

_NUM_STEPS = 32
_NANOSECONDS = 1e-9
# The minimum processor time of a running process, as a share of the elapsed time and in seconds.
# Background threads of a frozen process may use a little.
_MIN_SHARE = 0.01
_MIN_PROCESSOR_SECONDS = 0.02


@final
@dataclass(frozen=True)
class LivenessLimits:
    """Time limits in seconds. Without a sign of life, an engine is unhealthy after
    `unhealthy_seconds` and hangs after `freeze_seconds` (after `start_seconds` during startup).
    """

    freeze_seconds: float = 30.0
    # The limit is at least this many times the measured duration of a step.
    step_factor: float = 20.0
    start_seconds: float = 120.0
    # Maximum time without a message for a process that uses processor time.
    silence_seconds: float = 600.0
    unhealthy_seconds: float = 7.0
    check_seconds: float = 10.0  # time between two health checks of a busy engine

    @property
    def tick_seconds(self) -> float:
        """Time between two applications of the rules."""
        return min(1.0, self.freeze_seconds / 8)

    @property
    def idle_seconds(self) -> float:
        """Time without a message after which the front end requests a health check."""
        return 2 * self.tick_seconds


DEFAULT_LIMITS = LivenessLimits()
"""The time limits of a server."""


@final
class Liveness:
    """The signs of life of one engine process. `now` is the time of the front end's clock in
    seconds.
    """

    def __init__(self, limits: LivenessLimits, now: float) -> None:
        self.limits = limits
        self.last_heard = now  # time of the last message
        self._is_ready = False
        self._last_used = now  # last time at which the process had used processor time
        self._processor_seconds: float | None = None  # at `_last_used`; None if a message is newer
        self._steps: deque[float] = deque(maxlen=_NUM_STEPS)
        self._check_sent: float | None = None  # None if no check is pending
        self._last_check = now
        self._failing_since: float | None = None

    def note_ready(self, now: float) -> None:
        """Record the end of the startup."""
        self._is_ready = True
        self.last_heard = now

    def note_step(self, step_ns: int) -> None:
        """Record the duration of a step. The steps may be a sample of all steps."""
        self._steps.append(step_ns * _NANOSECONDS)

    def note_processor(self, now: float, seconds: float) -> None:
        """Record the processor time that the process has used since its start."""
        if self._processor_seconds is None or self._last_used < self.last_heard:
            self._last_used, self._processor_seconds = self.last_heard, seconds
            return
        used = seconds - self._processor_seconds
        if used >= max(_MIN_PROCESSOR_SECONDS, _MIN_SHARE * (now - self._last_used)):
            self._last_used, self._processor_seconds = now, seconds

    def note_check_sent(self, now: float) -> None:
        """Record that a health check was requested."""
        self._check_sent = self._last_check = now

    def note_check(self, now: float, is_ok: bool) -> None:
        """Record the reply to a health check."""
        self._check_sent = None
        if is_ok:
            self._failing_since = None
        elif self._failing_since is None:
            self._failing_since = now

    def needs_check(self, now: float) -> bool:
        """Whether a health check is due. The first check of an idle engine follows soon after its
        last message.
        """
        if not self._is_ready or self._check_sent is not None:
            return False
        limits = self.limits
        is_idle = now - self.last_heard >= limits.idle_seconds
        return is_idle or now - self._last_check >= limits.check_seconds

    @property
    def is_check_deep(self) -> bool:
        """Whether the next check must run a forward pass, because the last check failed."""
        return self._failing_since is not None

    @property
    def freeze_limit(self) -> float:
        """Maximum time without a sign of life."""
        limits = self.limits
        if not self._is_ready:
            return limits.start_seconds
        step = statistics.median(self._steps) if self._steps else 0.0
        return max(limits.freeze_seconds, limits.step_factor * step)

    def is_healthy(self, now: float) -> bool:
        """Whether the process has shown a recent sign of life, and its last health check
        succeeded.
        """
        return self._failing_since is None and self._still(now) <= self.limits.unhealthy_seconds

    def failure(self, now: float) -> str:
        """Return the reason for which the process must be replaced. The text is empty if the
        process is alive.
        """
        margin = self.limits.tick_seconds  # the rules are applied once per tick
        silence, still, limit = now - self.last_heard, self._still(now), self.freeze_limit
        if still > limit - margin:
            return f"has sent nothing for {silence:.0f} s and used no processor time"
        if silence > max(self.limits.silence_seconds, limit) - margin and self._owes_message:
            return f"has sent nothing for {silence:.0f} s"
        if self._failing_since is not None and now - self._failing_since > limit - margin:
            return f"has failed its health checks for {now - self._failing_since:.0f} s"
        return ""

    @property
    def _owes_message(self) -> bool:
        """Whether the process must send a message: progress, or the reply to a check."""
        return not self._is_ready or self._check_sent is not None

    def _still(self, now: float) -> float:
        """Return the time since the last sign of life."""
        return now - max(self.last_heard, self._last_used)
